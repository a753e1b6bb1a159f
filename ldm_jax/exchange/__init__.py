"""Released weights in and out: other codebases' files, told apart and translated."""
