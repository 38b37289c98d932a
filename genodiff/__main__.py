"""`python -m genodiff` is the `genodiff` command."""

from genodiff.cli import main

if __name__ == "__main__":
    main()
