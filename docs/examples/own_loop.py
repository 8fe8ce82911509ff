"""A training loop of your own, in plain PyTorch: python docs/examples/own_loop.py [PLAN] [FOLDER].

Trains a static network as you would, divides it by PLAN, trains what comes of it, and runs the bundle.
"""

import sys
from pathlib import Path

import torch
from digits import READING, TRAINED_ON, make_net, pixels, train_set
from torch import nn
from torch.utils.data import DataLoader

import s2dnas_deploy

EPOCHS = 4
plan = sys.argv[1] if len(sys.argv) > 1 else "uniform:0.25,0.75"
out = Path(sys.argv[2] if len(sys.argv) > 2 else "own_loop")
out.mkdir(parents=True, exist_ok=True)
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
loader = DataLoader(train_set(), batch_size=64, shuffle=True, drop_last=True)

# Your static network, trained as you train it.
module = make_net().to(device).train()
optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
for images, labels in [batch for _ in range(EPOCHS) for batch in loader]:
    loss = nn.functional.cross_entropy(module(images.to(device)), labels.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
module.eval()

# What the plan makes of it. A large batch lets it begin with what the module knows.
some = next(iter(DataLoader(train_set(), batch_size=512, shuffle=True)))
steps = EPOCHS * len(loader) if plan.startswith("blocks:") else None
network = s2dnas_deploy.divide(module, (1, 8, 8), plan, begin_with=(some[0], some[1]), steps=steps)

optimizer = torch.optim.SGD(network.parameter_groups(lr=0.05), momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
for epoch in range(EPOCHS):
    for batch in loader:
        images, labels = (each.to(device) for each in batch)
        with torch.no_grad():
            taught = module(images)
        loss = network.exit_loss(network(images), labels, taught)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
if plan.startswith("gate:"):
    print(network.train_gate(loader))

# A file for the commands, and a bundle for the device.
network.save(out / "model.pt", **READING)
images, labels = (each[TRAINED_ON:] for each in pixels())
network.export(out / "bundle", **READING, images=images, labels=labels)
with s2dnas_deploy.Cascade.load(out / "bundle", provider="cpu", threads=1) as cascade:
    answers = cascade.predict(images)
print(f"right: {(answers.label == labels).mean():.1%}; at each exit: {torch.tensor(answers.exit).bincount()}")
