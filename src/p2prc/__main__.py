"""`python -m p2prc` is the command `p2prc`."""

from p2prc.cli.main import main

if __name__ == "__main__":
    main()
