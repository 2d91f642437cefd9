"""The exceptions of the ops. Each message names the argument, what it was and what is allowed."""


class KernelError(Exception):
    """Base of every error that `w2s_kernels` raises on purpose."""


class DtypeError(KernelError, TypeError):
    """An argument has a dtype the op does not take."""


class ShapeError(KernelError, ValueError):
    """Shapes of two arguments do not fit, or one has the wrong number of dimensions."""


class DeviceError(KernelError, ValueError):
    """Arguments lie on different devices."""


class LayoutError(KernelError, ValueError):
    """An argument's last dimension is not contiguous."""


class RangeError(KernelError, ValueError):
    """A setting or, under `checks(True)`, a value lies outside its range."""


class BackendError(KernelError, RuntimeError):
    """A forced backend cannot run this call; the message says why."""
