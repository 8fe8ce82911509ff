"""The labelled images that training sees, from a folder, CIFAR, a NumPy archive or the built-in digits.

    load ──▶ folder | cifar | archive | digits ──▶ splits ──▶ pixels ──▶ labelled
             what is there, labels known           who is     decoded,   what training
                                                   where      fitted     is handed

Labels are read first and pixels last, so that a split or a limit never decodes an image it drops.
Augmentation is not here (see `augment`), and normalisation belongs to the network.
"""

from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.data.shape import shape_of_images

__all__ = ["ImageSplits", "LabelledImages", "load_images", "shape_of_images"]
