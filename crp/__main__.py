"""``python -m crp``."""
from crp.cli.command_line import main

main()
