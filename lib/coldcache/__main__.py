"""``python -m coldcache``."""

from coldcache.cli import main

if __name__ == "__main__":
    main()
