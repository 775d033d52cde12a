"""Write env_sciworld/data/tasks.json from the live simulator and ETO's index files.

    python services/env-sciworld/tools/make_table.py DIR

DIR holds train_indices.json, dev_indices.json, test_indices.json, max_steps.json and taskname2id.json as in ETO's code
(github Yifan-Song793/ETO, eval_agent/data/sciworld). Run it once for a new version of the simulator.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from env_sciworld.jvm import Jvm
from env_sciworld.tables import compact
from scienceworld.utils import infer_task  # type: ignore[import-untyped]

ETO_FILES = {"eto-train": "train", "eto-seen": "dev", "eto-unseen": "test"}
DEFAULT_MAX_STEPS = 100  # for the task types that ETO does not play
NOT_NAMED_BY_ETO = ["task-10-measure-melting-point-(unknown-substance)"]  # its number, 5, is left out in ETO's list
TARGET = Path(__file__).parent.parent / "env_sciworld" / "data" / "tasks.json"


def main(eto: Path) -> None:
    """Write the table."""
    limits = json.loads((eto / "max_steps.json").read_text())
    names = sorted([*json.loads((eto / "taskname2id.json").read_text()), *NOT_NAMED_BY_ETO])
    indices = {split: json.loads((eto / f"{file}_indices.json").read_text()) for split, file in ETO_FILES.items()}
    jvm = Jvm(heap_mb=192)
    simulator = jvm.simulator
    rows = []
    for name in names:
        simulator_name = infer_task(name)
        simulator.load(simulator_name, 0, "easy", False)
        splits = {
            "train": list(simulator.getVariationsTrain()),
            "dev": list(simulator.getVariationsDev()),
            "test": list(simulator.getVariationsTest()),
            **{split: sorted(v for task, v in pairs if task == name) for split, pairs in indices.items()},
        }
        rows.append(
            {
                "name": name,
                "simulator_name": simulator_name,
                "max_steps": limits.get(name, DEFAULT_MAX_STEPS),
                "variations": simulator.getTaskMaxVariations(simulator_name),
                "splits": {split: compact(sorted(numbers)) for split, numbers in splits.items()},
            }
        )
    unnamed = set(simulator.getTaskNames()) - {row["simulator_name"] for row in rows}
    assert not unnamed, f"the simulator has task types without a name here: {unnamed}"  # noqa: S101
    jvm.close()
    source = (
        f"Variations and splits: scienceworld {version('scienceworld')}. max_steps, eto-*: ETO's code (github "
        "Yifan-Song793/ETO, a2fc5da); 100 steps for the task types that ETO does not play."
    )
    lines = ",\n".join(json.dumps(row) for row in rows)
    TARGET.write_text(f'{{"source": {json.dumps(source)},\n"task_types": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
