"""``python -m crp``."""
from crp.cli.command_line import main as cli

if __name__ == "__main__":
    cli()
