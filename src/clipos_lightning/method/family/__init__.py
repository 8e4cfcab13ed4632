"""Methods of the line, one file each: ``--model.objective NAME`` takes ``OBJECTIVE`` of ``family/NAME.py``."""
