"""``python -m levit_deploy``."""

from levit_deploy.cli import main

main()
