"""Names and one-line descriptions of the commands, for the help texts. No torch."""

TRAINER_COMMANDS = {
    "fit": "train a detector from a few labelled images per class",
    "validate": "evaluate a detector on held-out training images and synthesised outliers",
    "test": "test a detector on ID and OOD sets and write a report; without --ckpt_path: the zero-shot detector",
}
COMMANDS = {
    **TRAINER_COMMANDS,
    "benchmark": "train and test the detectors of a grid (methods, options, shots, seeds) and write comparison tables",
    "report": "merge the shards of a benchmark into one set of tables",
    "calibrate": "set a detector's threshold with your images; writes detector.safetensors",
    "add": "add classes to a detector, from their images alone",
    "predict": "classify your images, or reject them as unknown",
    "explain": "draw similarity maps and decision for your images, as a figure for a paper",
    "app": "try a detector on a page in the browser",
    "export": "write a detector with its backbone as ONNX",
    "dashboard": "lay out a W&B workspace and a report for the runs of a project",
    "rerun": "repeat a fit, validate or test from what its folder records, and compare the numbers",
    "configs": "list the shipped configs and grids",
    "data": "list, download, verify and describe the data sets",
    "completion": "print a shell completion script for bash, zsh or fish",
}
OWN_PARSERS = {  # command to its module, and the function in it if it is not ``main``
    "benchmark": "benchmark",
    "report": "benchmark:report",
    "calibrate": "calibrate",
    "add": "add",
    "predict": "predict",
    "explain": "explain",
    "app": "app",
    "export": "export",
    "dashboard": "dashboard",
    "rerun": "rerun",
    "data": "data",
    "completion": "completion",
}
