"""``python -m crp``."""
from crp.cli import main

main()
