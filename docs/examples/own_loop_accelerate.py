"""The same loop by Accelerate: python docs/examples/own_loop_accelerate.py [FOLDER].

With `accelerate launch` in place of `python` it runs on many GPUs, and in what precision it is told to.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from digits import READING, TRAINED_ON, make_net, pixels, train_set
from torch.utils.data import DataLoader

import s2dnas_deploy

EPOCHS = 4
out = Path(sys.argv[1] if len(sys.argv) > 1 else "own_loop_accelerate")
accelerator = Accelerator()
torch.manual_seed(0)

network = s2dnas_deploy.divide(make_net(), (1, 8, 8), "in-turn:0.5,1")
optimizer = torch.optim.SGD(network.parameter_groups(lr=0.05), momentum=0.9)
loader = DataLoader(train_set(), batch_size=64, shuffle=True, drop_last=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
prepared, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)

for epoch in range(EPOCHS):
    for images, labels in loader:
        loss = network.exit_loss(prepared(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
    accelerator.save_state(str(out / "checkpoint"))  # accelerator.load_state goes on from it
    accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")

if accelerator.is_main_process:
    images, labels = (each[TRAINED_ON:] for each in pixels())
    network = accelerator.unwrap_model(prepared)
    network.export(out / "bundle", **READING, images=images, labels=labels)
    with s2dnas_deploy.Cascade.load(out / "bundle", provider="cpu", threads=1) as cascade:
        print(f"right: {(cascade.predict(images).label == labels).mean():.1%}")
accelerator.end_training()
