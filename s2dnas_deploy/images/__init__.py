"""One reader of images, for training and for the device: what one of them takes, the other takes alike.

    a folder  ──listing──▶ files ──picture_file──▶ pixels of the network's size and colours, uint8 [C, H, W]
    an archive ──archive──▶ arrays ──────pixels──▶     the same

Needs numpy and pillow, and knows nothing of bundles, of torch, or of what is done with the pixels.
"""
