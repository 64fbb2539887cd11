"""Fine-tune the fast model that ships with the package on label maps of your own, and predict.

Usage: python examples/recipes/fine_tune.py [OUTPUT_FOLDER] [LABEL_MAPS] [SETTING=VALUE ...]

Without label maps, three head phantoms with voxels of 2 mm serve. For real work, set run.epochs=20,
run.steps_per_epoch=1000 and crop.shape=128 or so, and train on a GPU (synthsr train does the same).
"""

import sys
from pathlib import Path

from synthsr_net import Predictor
from synthsr_net.example import EXAMPLE_SCAN
from synthsr_net.training.run import start
from synthsr_transforms.phantom import head_phantom

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tuned")
labels = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "label_maps"
if len(sys.argv) <= 2:
    labels.mkdir(parents=True, exist_ok=True)
    for person in range(3):
        head_phantom(spacing_mm=2, seed=person).save(labels / f"head_{person}.nii.gz")

settings = [
    "initial_weights=fast",  # the architecture follows
    "optimiser.learning_rate=4e-5",  # a tenth of that of the preset: keep what the model knows
    "optimiser.warmup_steps=2",
    "crop.shape=32",
    "run.epochs=2",
    "run.steps_per_epoch=4",
    "validation.held_out=1",
    "validation.samples=2",
    *sys.argv[3:],
]
run = start("all_purpose", settings, folder=folder / "run", labels=labels, overwrite=True)
for note in run.prepared.notes:
    print("note:", note)
run.fit(on_epoch=lambda epoch: print(epoch.epoch, f"L1 {epoch.row['validation/brain/l1']:.3f}"))

tuned = Predictor.from_file(run.folder.model_path("best"), device="cpu")
print("Wrote", tuned(EXAMPLE_SCAN, folder / "prediction.nii.gz"))
