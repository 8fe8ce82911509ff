"""The labelled images that training sees, from a folder, CIFAR, a NumPy archive or the built-in digits.

    load ──▶ folder | cifar | archive | digits ──▶ splits ──▶ labelled, in memory or on disk
             what is there, labels known           who is     what training is handed
                                                   where
    labelled ──rows──▶ augment ──▶ batches as training sees them, made by `crew` where that takes time

Labels are read first and pixels last, so that a split or a limit never decodes an image it drops.
Normalisation belongs to the network. Nothing is imported here: processes that decode and augment come by,
and are small because they need no torch.
"""
