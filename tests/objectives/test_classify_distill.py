"""Fine-tuning with a teacher's answers: losses, gradients and predictions against PyTorch; the teacher stays put."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import assert_grads_close, images, small, start, value_and_grad
from torch_reference import block, encode, gradients, linear, norm, positions, tensors

from lvit_jax.errors import InputError
from lvit_jax.models.heads import classifier, distilled_classifier
from lvit_jax.models.regnet import regnet
from lvit_jax.objectives.classify_distill import make_classify_distill
from lvit_jax.objectives.losses import hard_distillation, soft_distillation
from lvit_jax.objectives.mixing import mix, soft_labels
from lvit_jax.training.optim import layer_id
from lvit_jax.tree import flatten

BATCH = {"image": images(batch=5), "label": jnp.array([3, 1, 0, 6, 3])}
RNG = jax.random.key(3)
TEACHER = {"width": 48, "depth": 2, "heads": 3}
CASES = {
    "hard": {"target": "hard", "alpha": 0.5, "mixup": 0.8, "smoothing": 0.1},
    "soft": {"target": "soft", "alpha": 0.3, "temperature": 3.0},
}


def logits_of(head, tokens, pool):
    return linear(head["fc"], norm(head["norm"], tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]))


def student(weights, pixels):
    """-> logits of the main head on the mean of the patches, of the distillation head on CLS."""
    tokens = encode(weights["encoder"], pixels, None, heads=4).tokens
    return logits_of(weights["head"], tokens, "mean"), logits_of(weights["dist_head"], tokens, "cls")


def reference(params, teacher, target, alpha, temperature=1.0, mixup=0.0, smoothing=0.0):
    """-> (supervised, distillation, total, weights), by the definitions of DeiT."""
    labels = soft_labels(BATCH["label"], 7, smoothing)
    mixed, labels = mix(jax.random.split(RNG)[0], BATCH["image"], labels, mixup=mixup, cutmix=0.0)
    weights, pixels = tensors(params), torch.tensor(np.asarray(mixed))
    main, dist = student(weights, pixels)
    with torch.no_grad():
        theirs = tensors(teacher)
        answers = logits_of(theirs["head"], encode(theirs["encoder"], pixels, None, heads=3).tokens, "mean")
    supervised = F.cross_entropy(main, torch.tensor(np.asarray(labels)))
    if target == "hard":
        distill = F.cross_entropy(dist, answers.argmax(1))
    else:
        pair = (F.log_softmax(x / temperature, dim=1) for x in (dist, answers))
        distill = F.kl_div(*pair, reduction="sum", log_target=True) * temperature**2 / dist.numel()
    return supervised, distill, (1 - alpha) * supervised + alpha * distill, weights


def test_as_a_teacher_it_answers_by_the_mean_of_both_heads():
    model = distilled_classifier(small(), 7, own_token=True, expand=24)
    params = jax.jit(model.init)(RNG, BATCH["image"])
    main, dist = model.apply(params, BATCH["image"])
    assert np.abs(main - dist).max() > 1e-3
    np.testing.assert_array_equal(model.clone(averaged=True).apply(params, BATCH["image"]), (main + dist) / 2)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(options, objective, params, state, ((loss, Aux), grads))."""
    options = CASES[request.param]
    objective = make_classify_distill(small(), classifier(small(**TEACHER), 7), classes=7, **options)
    params, state = start(objective, BATCH)
    return options, objective, params, state, value_and_grad(objective, params, state, BATCH, RNG)


def test_loss_and_gradients_equal_pytorch(case):
    options, _, params, state, ((loss, aux), grads) = case
    supervised, distill, total, weights = reference(params, state.frozen["teacher"], **options)
    np.testing.assert_allclose(aux.metrics["supervised"], supervised.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["distill"], distill.item(), rtol=1e-4)
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(total, weights))


def test_predictions_average_the_heads(case):
    _, objective, params, state, _ = case
    predicted = jax.jit(objective.predict)(params, state, BATCH)["logits"]
    main, dist = student(tensors(params), torch.tensor(np.asarray(BATCH["image"])))
    expected = ((main + dist) / 2).detach()
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_the_teacher_is_no_parameter_and_gets_no_gradient(case):
    options, objective, params, state, _ = case
    assert {name.split("/")[0] for name in flatten(params)} == {"encoder", "head", "dist_head"}
    assert set(flatten(state.frozen["teacher"])) >= {"encoder/cls_token", "head/fc/kernel"}
    if options["target"] == "soft":  # an argmax has no gradient in any case
        to_teacher = jax.jit(jax.grad(lambda s: objective.loss(params, s, BATCH, RNG)[0], allow_int=True))(state)
        assert all(not np.any(g) for g in flatten(to_teacher.frozen).values())


def test_the_teacher_sees_the_mixed_images():
    objective = make_classify_distill(
        small(), classifier(small(**TEACHER), 7), classes=7, target="soft", alpha=1.0, mixup=0.8
    )
    params, state = start(objective, BATCH)
    metrics = jax.jit(objective.loss)(params, state, BATCH, RNG)[1].metrics
    _, distill, _, _ = reference(params, state.frozen["teacher"], "soft", 1.0, mixup=0.8)
    np.testing.assert_allclose(metrics["distill"], distill.item(), rtol=1e-4)


def test_losses_equal_pytorch_where_logits_are_large():
    rng = np.random.default_rng(0)
    ours, theirs = (20 * rng.standard_normal((6, 11), np.float32) for _ in range(2))
    a, b = torch.tensor(ours), torch.tensor(theirs)
    np.testing.assert_allclose(hard_distillation(ours, theirs), F.cross_entropy(a, b.argmax(1)), rtol=1e-5)
    for tau in (1.0, 4.0):
        pair = (F.log_softmax(x / tau, dim=1) for x in (a, b))
        expected = F.kl_div(*pair, reduction="sum", log_target=True) * tau**2 / a.numel()
        np.testing.assert_allclose(soft_distillation(ours, theirs, tau), expected, rtol=1e-5)
    assert float(soft_distillation(theirs, theirs, 2.0)) == pytest.approx(0, abs=1e-6)


def test_a_token_of_its_own_and_a_layer_before_the_heads_equal_pytorch():
    """TinyMIM*: [CLS, distillation token, patches]; LN, Linear, GELU; the heads are plain Linears on CLS and token."""
    options = {"pool": "cls", "token": "own", "expand": 20, "target": "soft", "temperature": 2.0, "alpha": 0.4}
    objective = make_classify_distill(small(), classifier(small(**TEACHER), 7), classes=7, **options)
    params, state = start(objective, BATCH)
    (loss, _), grads = value_and_grad(objective, params, state, BATCH, RNG)

    weights, pixels = tensors(params), torch.tensor(np.asarray(BATCH["image"]))
    p = weights["encoder"]
    kernel = p["patch_embed"]["kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(pixels.permute(0, 3, 1, 2), kernel, p["patch_embed"]["bias"], stride=4).flatten(2).transpose(1, 2)
    prefix = torch.cat([p["cls_token"], p["dist_token"]], 1).expand(5, -1, -1)  # MAE's position of CLS is zero
    x = torch.cat([prefix, x + positions(32, (4, 6))[1:]], 1)
    for i in range(3):
        x = block(p[f"block_{i}"], x, heads=4)[0]
    x = F.gelu(linear(weights["neck"]["fc"], norm(weights["neck"]["norm"], x)))
    main, dist = linear(weights["head"]["fc"], x[:, 0]), linear(weights["dist_head"]["fc"], x[:, 1])
    with torch.no_grad():
        theirs = tensors(state.frozen["teacher"])
        answers = logits_of(theirs["head"], encode(theirs["encoder"], pixels, None, heads=3).tokens, "mean")
    pair = (F.log_softmax(logits / 2.0, dim=1) for logits in (dist, answers))
    distill = F.kl_div(*pair, reduction="sum", log_target=True) * 4.0 / dist.numel()
    expected = 0.6 * F.cross_entropy(main, torch.tensor(np.asarray(BATCH["label"]), dtype=torch.long)) + 0.4 * distill
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(expected, weights))
    assert layer_id("encoder/dist_token", 3) == 0 and layer_id("neck/fc/kernel", 3) == 4


def test_a_token_of_its_own_wants_a_plain_vit():
    with pytest.raises(InputError, match="is for plain ViTs; nearest: token='cls'"):
        make_classify_distill(regnet("regnety_002"), classifier(small(), 7), classes=7, token="own")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"token": "owns"}, "did you mean 'own'"),
        ({"pool": "means"}, "did you mean 'mean'"),
        ({"target": "heard"}, "did you mean 'hard'"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"group": 0}, "group=0"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        make_classify_distill(small(), classifier(small(), 7), classes=7, **kwargs)


def test_a_student_without_cls_is_refused():
    objective = make_classify_distill(regnet("regnety_002", dtype="float32"), classifier(small(), 7), classes=7)
    with pytest.raises(InputError, match="pool='dist', but this encoder has no CLS token"):
        jax.eval_shape(objective.init, RNG, BATCH)
