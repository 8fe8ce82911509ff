"""The same loop in several processes: torchrun --nproc-per-node 2 docs/examples/own_loop_ddp.py [FOLDER].

Killed at any time and started again, it goes on from its checkpoint.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from digits import READING, TRAINED_ON, make_net, pixels, train_set
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import s2dnas_deploy

EPOCHS = int(os.environ.get("EPOCHS", "6"))
out = Path(sys.argv[1] if len(sys.argv) > 1 else "own_loop_ddp")
out.mkdir(parents=True, exist_ok=True)
on_gpu = torch.cuda.is_available()
dist.init_process_group("nccl" if on_gpu else "gloo")
rank, device = dist.get_rank(), torch.device("cpu")
if on_gpu:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
torch.manual_seed(0)

# Every process divides the same module; DistributedDataParallel sends all of them the weights of the first.
network = s2dnas_deploy.divide(make_net().to(device), (1, 8, 8), "uniform:0.25,0.75")
parallel = DistributedDataParallel(network, device_ids=[device.index] if on_gpu else None)
optimizer = torch.optim.SGD(network.parameter_groups(lr=0.05), momentum=0.9)
sampler = DistributedSampler(data := train_set(), seed=0, drop_last=True)
loader = DataLoader(data, batch_size=32, sampler=sampler, drop_last=True)

checkpoint, begin = out / "checkpoint.pt", 0
if checkpoint.exists():
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    begin = state["epoch"]
    print(f"process {rank} goes on after epoch {begin}", flush=True)

for epoch in range(begin, EPOCHS):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        loss = network.exit_loss(parallel(images.to(device)), labels.to(device))  # forward by the wrapper
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if rank == 0:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        torch.save(state, out / "checkpoint.new")
        os.replace(out / "checkpoint.new", checkpoint)  # whole or not at all
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    dist.barrier()

if rank == 0:
    images, labels = (each[TRAINED_ON:] for each in pixels())
    network.export(out / "bundle", **READING, images=images, labels=labels)
    with s2dnas_deploy.Cascade.load(out / "bundle", provider="cpu", threads=1) as cascade:
        print(f"right: {(cascade.predict(images).label == labels).mean():.1%}", flush=True)
dist.barrier()
dist.destroy_process_group()
