"""No process of the data plane imports torch's compiler: it takes longer than most of them do."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path

from purvey.models.skeleton import skeleton
from tests.numerics import test_train_resume as resume
from tests.unit.test_models_image_networks import NETWORKS, built
from tests.unit.test_models_skeleton import CONFIG

def so_far(what):
    print(what, 'torch._dynamo' in sys.modules)

skeleton(CONFIG)
so_far('a skeleton')
assert all(built(name).num_parameters for name in NETWORKS)
so_far('counting')
jobs = resume.Jobs(Path(sys.argv[1]))
for rule in (resume.SGD, resume.ADAMW, resume.MUON):
    recipe = resume.language_recipe(rule)
    recipe['train'] |= {'max_steps': 2}
    jobs.run(
        recipe,
        jobs.dataset('rows.csv', resume.sentences()),
        link=resume.Link(),
        work=jobs.folder(),
    )
    so_far(f"training by {rule['name']}")
"""


def test_neither_loading_nor_counting_nor_training_imports_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "a skeleton False",
        "counting False",
        "training by sgd False",
        "training by adamw False",
        "training by muon False",
    ]
