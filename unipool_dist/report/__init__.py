"""The runs of an experiment as one HTML page: what was found, with its error, and how to find it again.

Made from the files in the run directories alone; nothing here imports torch.
"""
