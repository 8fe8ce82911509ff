"""The workstation wing (torch): reads a static network, divides it, trains it and saves `model.pt`."""
