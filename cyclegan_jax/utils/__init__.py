"""Images and files, errors, and what the command-line programs share."""
