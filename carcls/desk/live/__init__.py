"""The live page: events of runs from files, posts and logs, served to browsers on this machine."""
