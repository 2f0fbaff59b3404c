"""Architectures of torchvision with fewer channels or blocks: their layers and their order are what tests are about."""
import torch
from torch import nn
from torchvision import models

VGG = {
    "vgg11_bn": [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"],
    "vgg16_bn": [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"],
}


def small_vgg(channels, num_classes):
    with torch.device("meta"):
        model = models.VGG(nn.Sequential())
    model.features = models.vgg.make_layers(channels, batch_norm=True)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, num_classes))
    return model


def small_architecture(name, num_classes):
    if name in VGG:
        return small_vgg(VGG[name], num_classes)
    if name == "densenet121":
        return models.DenseNet(8, (6, 12, 24, 16), 16, num_classes=num_classes)
    if name == "resnet18":
        return models.ResNet(models.resnet.BasicBlock, [2, 1, 1, 1], num_classes)
    if name == "resnet50":
        return models.ResNet(models.resnet.Bottleneck, [2, 1, 1, 1], num_classes, width_per_group=16)
    return getattr(models, name)(num_classes=num_classes)
