"""A small residual network as a person would write it, for commands that read it from a file."""

NET = """
import torch
from torch import nn

def convolution(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        first, second = convolution(channels, channels), convolution(channels, channels)
        self.branch = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x):
        return torch.relu(x + self.branch(x))

def make_net():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*convolution(1, 16), nn.ReLU(), Block(16), Block(16), *head)
"""
