"""The functions of the library for files. They check their arguments, and call the pipeline."""
