"""Optimizer updates: one primitive per rule, from (parameter, gradient, state) to (parameter, state).

Inputs come in the order ``p, g, *state, lr, step, *optional state``, where a rule that does not need ``step`` (1 at the
first update) leaves it out; outputs are the new ``p`` and then the new state arrays, in the order of the inputs and
without those that were not given. What may change from step to step is an input, a Python number or a 0-d array;
what stays is a keyword. Arrays keep the parameter's dtype.

``maximize`` climbs instead of descending. ``weight_decay`` is L2 regularization (added to the gradient) unless the
rule or its ``decoupled`` flag says that the parameter itself is shrunk by ``1 - lr * weight_decay`` (Loshchilov and
Hutter, "Decoupled weight decay regularization", 2019).
"""

from __future__ import annotations

import math

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace


def _like(scalar, p):
    """A 0-d array in the dtype of ``p``, so that it does not raise that dtype; Python numbers do not anyway."""
    return scalar.astype(p.dtype) if hasattr(scalar, "dtype") else scalar


def _functions(scalar):
    """Where sqrt, exp, expm1 of a scalar come from: ``math`` is much quicker on Python numbers."""
    return namespace(scalar) if hasattr(scalar, "dtype") else math


def _one_minus_power(beta, step):
    """1 - beta**step, without cancellation where ``step`` is a low-precision array."""
    return -_functions(step).expm1(step * math.log(beta)) if beta > 0 else 1.0


def _sqrt(scalar):
    return _functions(scalar).sqrt(scalar)


def _l2(x):
    xp = namespace(x)
    return xp.sqrt(xp.sum(xp.square(x)))


def _decayed(p, g, lr, weight_decay, decoupled, maximize):
    """``p`` and ``g`` after the sign of the objective and the weight decay."""
    if maximize:
        g = -g
    if weight_decay and decoupled:
        p = p * _like(1 - lr * weight_decay, p)
    elif weight_decay:
        g = g + weight_decay * p
    return p, g


@primitive(differentiable=False, half=(0,), donated=("p", "buf"), elementwise=True)
def sgd_update(p, g, lr, step, buf=None, *, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0,
               maximize=False):  # fmt: skip
    """Gradient descent, with momentum if ``buf`` (zeros at first) is given. Returns ``(p,)`` or ``(p, buf)``.

    ``buf = momentum * buf + (1 - dampening) * g``, undampened at the first step; Nesterov's form then goes along
    ``g + momentum * buf`` (Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
    with the learning rate outside the buffer).
    """
    p, g = _decayed(p, g, lr, weight_decay, False, maximize)
    lr = _like(lr, p)
    if buf is None:
        return (p - lr * g,)
    buf = momentum * buf + (_like(1 - dampening * (step > 1), p) * g if dampening else g)
    return p - lr * (g + momentum * buf if nesterov else buf), buf


@primitive(differentiable=False, half=(0,), donated=("p", "m", "v", "max_v"), elementwise=True)
def adam_update(p, g, m, v, lr, step, max_v=None, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
                decoupled=False, maximize=False):  # fmt: skip
    """Adam (Kingma and Ba, 2015, algorithm 1); AdamW with ``decoupled``; AMSGrad (Reddi et al., 2018) if ``max_v`` is
    given. Returns ``(p, m, v)`` or ``(p, m, v, max_v)``."""
    xp = namespace(p)
    p, g = _decayed(p, g, lr, weight_decay, decoupled, maximize)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    largest = v if max_v is None else xp.maximum(max_v, v)
    denominator = xp.sqrt(largest) / _like(_sqrt(_one_minus_power(beta2, step)), p) + eps
    p = p - _like(lr / _one_minus_power(beta1, step), p) * (m / denominator)
    return (p, m, v) if max_v is None else (p, m, v, largest)


@primitive(differentiable=False, half=(0,), donated=("p", "v", "g_avg", "buf"), elementwise=True)
def rmsprop_update(p, g, v, lr, g_avg=None, buf=None, *, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0,
                   maximize=False):  # fmt: skip
    """RMSProp (Tieleman and Hinton, Coursera lecture 6.5, 2012). Returns ``(p, v)`` and those of ``g_avg, buf`` given.

    With ``g_avg`` the variance is centred (Graves, "Generating sequences with recurrent neural networks", 2013, eq.
    38-45); with ``buf`` the steps are accumulated with ``momentum``.
    """
    xp = namespace(p)
    p, g = _decayed(p, g, lr, weight_decay, False, maximize)
    v = alpha * v + (1 - alpha) * (g * g)
    variance, state = v, (v,)
    if g_avg is not None:
        g_avg = alpha * g_avg + (1 - alpha) * g
        variance, state = v - g_avg * g_avg, (v, g_avg)
    update = g / (xp.sqrt(variance) + eps)
    if buf is not None:
        update = buf = momentum * buf + update
        state = (*state, buf)
    return (p - _like(lr, p) * update, *state)


@primitive(differentiable=False, half=(0,), donated=("p", "total"), elementwise=True)
def adagrad_update(p, g, total, lr, step, *, lr_decay=0.0, eps=1e-10, weight_decay=0.0, maximize=False):
    """Adagrad (Duchi, Hazan and Singer, 2011): ``total`` sums the squared gradients. Returns ``(p, total)``.

    ``lr_decay`` lowers the learning rate to ``lr / (1 + (step - 1) * lr_decay)``.
    """
    p, g = _decayed(p, g, lr, weight_decay, False, maximize)
    total = total + g * g
    rate = lr / (1 + (step - 1) * lr_decay)
    return p - _like(rate, p) * (g / (namespace(p).sqrt(total) + eps)), total


@primitive(differentiable=False, half=(0,), donated=("p", "v", "delta_v"), elementwise=True)
def adadelta_update(p, g, v, delta_v, lr, *, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    """Adadelta (Zeiler, 2012, algorithm 1), its step scaled by ``lr``. Returns ``(p, v, delta_v)``."""
    xp = namespace(p)
    p, g = _decayed(p, g, lr, weight_decay, False, maximize)
    v = rho * v + (1 - rho) * (g * g)
    delta = xp.sqrt(delta_v + eps) / xp.sqrt(v + eps) * g
    delta_v = rho * delta_v + (1 - rho) * (delta * delta)
    return p - _like(lr, p) * delta, v, delta_v


@primitive(differentiable=False, half=(0,), donated=("p", "m", "v"))
def nadam_update(p, g, m, v, mu_product, lr, step, *, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3,
                 weight_decay=0.0, decoupled=False, maximize=False):  # fmt: skip
    """NAdam (Dozat, "Incorporating Nesterov momentum into Adam", 2016). Returns ``(p, m, v, mu_product)``.

    ``mu_product`` is a 0-d array (1 at first): the product of the momentum coefficients
    ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` so far.
    """
    xp = namespace(p)
    p, g = _decayed(p, g, lr, weight_decay, decoupled, maximize)
    exp = _functions(step).exp
    mu = beta1 * (1 - 0.5 * exp(math.log(0.96) * momentum_decay * step))
    mu_next = beta1 * (1 - 0.5 * exp(math.log(0.96) * momentum_decay * (step + 1)))
    mu_product = xp.asarray(mu_product * _like(mu, p))
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    denominator = xp.sqrt(v / _like(_one_minus_power(beta2, step), p)) + eps
    along_g = _like(lr * (1 - mu) / (1 - mu_product), p)
    along_m = _like(lr * mu_next / (1 - mu_product * mu_next), p)
    return p - along_g * (g / denominator) - along_m * (m / denominator), m, v, mu_product


@primitive(differentiable=False, half=(0,), donated=("p", "m", "v"), elementwise=True)
def radam_update(p, g, m, v, lr, step, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False,
                 maximize=False):  # fmt: skip
    """Rectified Adam (Liu et al., 2020, algorithm 2). Returns ``(p, m, v)``.

    Until the variance of the adaptive step is tractable (``rho > 5``) the update is the momentum alone.
    """
    xp = namespace(p, step)
    p, g = _decayed(p, g, lr, weight_decay, decoupled, maximize)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    correction = _one_minus_power(beta2, step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * (1 - correction) / correction
    r = xp.maximum(rho, 5.0)  # where rho is smaller this value is not used, but must not make a NaN
    rectification = xp.sqrt((r - 4) * (r - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * r))
    adaptive = _like(rectification * _sqrt(correction), p) / (xp.sqrt(v) + eps)
    step_size = _like(lr / _one_minus_power(beta1, step), p)
    return p - step_size * m * xp.where(rho > 5, adaptive, xp.ones_like(adaptive)), m, v


def _trust(weight_norm, update_norm):
    """The ratio of the two norms, 1 where either is zero."""
    xp = namespace(weight_norm)
    usable = (weight_norm > 0) & (update_norm > 0)
    one = xp.ones_like(update_norm)
    return xp.where(usable, weight_norm / xp.where(usable, update_norm, one), one)


@primitive(differentiable=False, half=(0,), donated=("p", "m", "v"))
def lamb_update(p, g, m, v, lr, step, *, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0, adapt=True,
                maximize=False):  # fmt: skip
    """LAMB (You et al., "Large batch optimization for deep learning", 2020, algorithm 2). Returns ``(p, m, v)``.

    The update ``u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p`` is scaled to the parameter's norm:
    ``p - lr * |p| / |u| * u``; without ``adapt`` (for biases and normalization weights) it is not.
    """
    p, g = _decayed(p, g, lr, 0.0, False, maximize)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    m_hat = m / _like(_one_minus_power(beta1, step), p)
    v_hat = v / _like(_one_minus_power(beta2, step), p)
    update = m_hat / (namespace(p).sqrt(v_hat) + eps)
    if weight_decay:
        update = update + weight_decay * p
    rate = _like(lr, p) * _trust(_l2(p), _l2(update)) if adapt else _like(lr, p)
    return p - rate * update, m, v


@primitive(differentiable=False, half=(0,), donated=("p", "buf"))
def lars_update(p, g, buf, lr, *, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3, adapt=True, maximize=False):
    """LARS (You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1).

    ``local = trust_coefficient * |p| / (|g| + weight_decay * |p|)`` (1 where a norm is zero, or without ``adapt``),
    ``buf = momentum * buf + lr * local * (g + weight_decay * p)``, ``p - buf``. Returns ``(p, buf)``.
    """
    p, g = _decayed(p, g, lr, 0.0, False, maximize)
    rate = _like(lr, p)
    if adapt:
        weight_norm = _l2(p)
        rate = rate * _trust(trust_coefficient * weight_norm, _l2(g) + weight_decay * weight_norm)
    if weight_decay:
        g = g + weight_decay * p
    buf = momentum * buf + rate * g
    return p - buf, buf


@primitive(differentiable=False, half=(0,), donated=("p", "m"), elementwise=True)
def lion_update(p, g, m, lr, *, beta1=0.9, beta2=0.99, weight_decay=0.0, maximize=False):
    """Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2), whose weight decay is
    decoupled. Returns ``(p, m)``."""
    p, g = _decayed(p, g, lr, weight_decay, True, maximize)
    p = p - _like(lr, p) * namespace(p).sign(beta1 * m + (1 - beta1) * g)
    return p, beta2 * m + (1 - beta2) * g


def _newton_schulz(g, coefficients, steps, eps):
    """Nearly U Vᵀ for ``g = U S Vᵀ``: each quintic step ``a x + b x³ + c x⁵`` drives the singular values towards 1.

    The coefficients are chosen for speed, so they end somewhere within about 0.7 and 1.2.
    """
    xp = namespace(g)
    a, b, c = coefficients
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / xp.maximum(_l2(x), eps)  # the largest singular value is then at most 1
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


@primitive(differentiable=False, half=(0,), donated=("p", "buf"))
def muon_update(p, g, buf, lr, *, momentum=0.95, nesterov=True, weight_decay=0.1,
                ns_coefficients=(3.4445, -4.775, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None):  # fmt: skip
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon/, 2024) on a matrix. Returns ``(p, buf)``.

    The momentum is orthogonalized by Newton-Schulz steps; weight decay is decoupled. ``adjust_lr_fn`` scales the step
    by the shape ``(rows, columns)``: ``"original"`` (or None) by ``sqrt(max(1, rows / columns))``,
    ``"match_rms_adamw"`` by ``0.2 * sqrt(max(rows, columns))`` (Liu et al., "Muon is scalable for LLM training", 2025).
    PyTorch does the orthogonalization in bfloat16, here it has the parameter's precision. Raises ValueError if ``p``
    is not a matrix.
    """
    if p.ndim != 2:
        raise ValueError(f"muon_update: expected a matrix, got {describe(p)}")
    rows, columns = p.shape
    if adjust_lr_fn == "match_rms_adamw":
        scale = 0.2 * math.sqrt(max(rows, columns))
    else:
        scale = math.sqrt(max(1.0, rows / max(columns, 1)))
    buf = momentum * buf + (1 - momentum) * g
    direction = momentum * buf + (1 - momentum) * g if nesterov else buf
    update = _newton_schulz(direction, ns_coefficients, ns_steps, eps)
    p, _ = _decayed(p, g, lr, weight_decay, True, False)
    return p - _like(lr * scale, p) * update, buf


@primitive(differentiable=False, half=(), donated=("average",), elementwise=True)
def ema_update(average, p, decay):
    """One step of an exponential moving average: ``decay * average + (1 - decay) * p``."""
    return average + _like(1 - decay, average) * (p - average)
