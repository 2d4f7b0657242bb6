#!/usr/bin/env python
"""Django's command line: `manage.py serve`, `manage.py create_key`, `manage.py migrate` and the rest."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:  # the sentence is for whoever set the environment, where it went wrong is not
        sys.exit(str(error))
