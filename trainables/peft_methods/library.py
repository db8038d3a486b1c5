"""The peft library, imported where that is safe: it imports transformers, which imports torchvision, which dies beside a CPU torch.

Everything of ours that needs peft takes it from here. Importing costs seconds.
"""

import warnings

from trainables.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()
# peft 0.21 asks transformers 5 for a property under its old name; nobody who runs a study can do anything about it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

import peft as peft  # noqa: E402
from peft import PeftModel as PeftModel  # noqa: E402
from peft import get_peft_model as get_peft_model  # noqa: E402
from peft.config import PeftConfig as PeftConfig  # noqa: E402
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: E402
from peft.tuners.tuners_utils import BaseTuner as BaseTuner  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer as BaseTunerLayer  # noqa: E402
from peft.tuners.tuners_utils import check_adapters_to_merge as check_adapters_to_merge  # noqa: E402
from peft.utils import AuxiliaryTrainingWrapper as AuxiliaryTrainingWrapper  # noqa: E402
from peft.utils import ModulesToSaveWrapper as ModulesToSaveWrapper  # noqa: E402
from peft.utils import PeftType as PeftType  # noqa: E402
from peft.utils import register_peft_method as register_peft_method  # noqa: E402
