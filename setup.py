"""Distribution of crp; tool settings are in pyproject.toml."""
import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "crp" / "__init__.py").read_text())[1]

setup(
    name="crp-concepts",
    version=version,
    description="Concept attribution for PyTorch: conditional heatmaps and reference samples of concepts",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause-Clear",
    license_files=["LICENSE"],
    packages=find_packages(include=["crp", "crp.*"]),
    package_data={"crp": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.2", "zennit>=0.5.1", "numpy", "scipy", "scikit-learn>=1.5", "hdbscan>=0.8.40", "pillow",
        "matplotlib>=3.6", "tqdm", "cloudpickle", "pydantic>=2.11",
    ],
    extras_require={
        "xarray": ["xarray"],
        "umap": ["umap-learn>=0.5.7"],
        "captum": ["captum>=0.8"],
        "zarr": ["zarr>=3", "xarray"],
        "parquet": ["pyarrow"],
        "test": [
            "captum>=0.8", "pytest", "hypothesis", "nbclient", "nbformat", "ipykernel", "transformers", "xarray",
            "umap-learn>=0.5.7", "zarr>=3", "pyarrow", "datasets", "loky", "dask[distributed]",
        ],
        "dev": ["deptry", "import-linter", "mypy", "ruff", "scipy-stubs", "types-tqdm"],
    },
    entry_points={"console_scripts": ["crp=crp.cli:main"]},
)
