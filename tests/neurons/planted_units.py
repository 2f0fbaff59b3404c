"""Made values in which it is known which units tell what."""
import numpy as np


def planted(rows=400, units=30, informative=5, classes=3, strength=2., seed=0):
    """Values [rows, units] whose first units differ between classes, each in its own way, and the classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    values = random.normal(size=(rows, units))
    for unit in range(informative):
        values[:, unit] += strength * np.eye(classes)[unit % classes][labels]
    return values, labels
