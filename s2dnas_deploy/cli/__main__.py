"""`python -m s2dnas_deploy.cli`: the group of all commands, where no scripts are installed."""

from s2dnas_deploy.cli import main

if __name__ == "__main__":
    main(prog_name="s2dnas")
