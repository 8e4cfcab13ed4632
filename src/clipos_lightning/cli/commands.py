"""The commands and what each does, for the help texts. No torch."""

TRAINER_COMMANDS = {
    "fit": "train a detector from a few labelled images per class",
    "validate": "check a detector on training images that were not drawn, and on synthesised outliers",
    "test": "test a detector against OOD sets and write a report; without --ckpt_path: the zero-shot detector",
}
COMMANDS = {
    **TRAINER_COMMANDS,
    "benchmark": "compare many detectors in one pass over the test sets: methods, options, shots, seeds",
    "report": "merge the folders of a benchmark's parts into one set of tables",
    "calibrate": "set the threshold of a trained detector by one's own images: detector.safetensors",
    "predict": "classify one's own images, or say that they are none of the classes",
    "explain": "draw what a detector saw in one's own images: a figure for a paper",
    "export": "write a detector as ONNX, backbone included",
    "configs": "list the shipped configs",
    "data": "list, download, verify and describe the data sets",
    "completion": "print a script that completes commands and options: bash, zsh or fish",
}
OWN_PARSERS = {  # command to its module, and the function there where it is not main
    "benchmark": "benchmark",
    "report": "benchmark:report",
    "calibrate": "calibrate",
    "predict": "predict",
    "explain": "explain",
    "export": "export",
    "data": "data",
    "completion": "completion",
}
