"""What `__init__.py` exports on first use, for type checkers and editors."""

from .config.adapter import MotionAdapterConfig as MotionAdapterConfig
from .config.unet import UNetMotionConfig as UNetMotionConfig
from .formats import inspect_file as inspect_file
from .formats import load_motion_module as load_motion_module
from .formats import load_unet as load_unet
from .forward.hooks import Hooks as Hooks
from .forward.more_motion import MoreMotion as MoreMotion
from .forward.motion_amount import MotionAmount as MotionAmount
from .forward.options import ForwardOptions as ForwardOptions
from .forward.text_keys import TextKeys as TextKeys
from .forward.views import Views as Views
from .lora.apply import apply_motion_lora as apply_motion_lora
from .lora.apply import load_motion_lora as load_motion_lora
from .lora.apply import remove_motion_lora as remove_motion_lora
from .model.motion_adapter import MotionAdapter as MotionAdapter
from .model.unet import UNetMotionOutput as UNetMotionOutput
from .model.unet_motion_model import UNet3DConditionOutput as UNet3DConditionOutput
from .model.unet_motion_model import UNetMotionModel as UNetMotionModel
from .ops.freeu import FreeU as FreeU
from .runtime.cuda_graphs import StepGraphs as StepGraphs
from .sampling import ContextWindows as ContextWindows
from .sampling import FreeInit as FreeInit
from .sampling import ImageInjection as ImageInjection
from .sampling import MotionPipeline as MotionPipeline
from .sampling import NoiseMix as NoiseMix
from .sampling import StepCache as StepCache
from .sampling import WindowPart as WindowPart
from .sampling import free_noise as free_noise
from .schedule import Curve as Curve
from .schedule import PromptSchedule as PromptSchedule

__version__: str
__all__: list[str]
