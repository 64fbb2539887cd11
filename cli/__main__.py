"""`python -m synthsr_cli`, which is `synthsr`."""

from synthsr_cli.main import main

if __name__ == "__main__":
    main()
