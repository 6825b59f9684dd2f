"""A model made ready to run again and again gives what the model gives.

Needs PyTorch, NumPy and pytest only, so that it runs on machines with a GPU as they come.
"""

import copy
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from genesis_core import Geco, GenesisV2, GenesisV2Config, SlotModel
from genesis_core.inference import Found, Graphs, Inference, Options, Pass, Pixels
from genesis_core.models.losses import latent_anchor, mask_supervision, region_mixture

ModelFactory = Callable[..., GenesisV2]

needs_cuda = pytest.mark.cuda
NAMES = ("genesis_v2", "genesis_v1", "monet", "slot_attention")
OPTIONS = [Options(4), Options(3), Options(4, stop_threshold=300.0)]


def pixels_of(images: Tensor) -> Tensor:
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def expected(
    model: SlotModel, pixels: Tensor, options: Options, decode: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Masks, means and deviations that the model itself gives, of one image after the other."""
    found = []
    for index in range(len(pixels)):
        image = pixels[index : index + 1].permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            out = model(
                image,
                **model.inference_randomness(1, options.num_slots),
                num_slots=options.num_slots,
                stop_threshold=options.stop_threshold,
            )
        log_masks = out.log_masks if decode else out.log_attention
        found.append((log_masks[0, :, 0].exp(), out.latent_mean[0], out.latent_std[0]))
    return found


def check(found: Found, model: SlotModel, pixels: Tensor, options: Options, **given: Any) -> None:
    """Compare with the model; given: decode, and a tolerance for the mean difference of masks."""
    tolerance = given.get("tolerance", 1e-5)
    truth = expected(model, pixels, options, given["decode"])
    for index, (masks, mean, std) in enumerate(truth):
        used = int(found.num_slots[index])
        assert used == len(masks)
        assert not found.masks[index, used:].any()
        assert (found.masks[index, :used] - masks).abs().mean() < tolerance
        if tolerance < 1e-3:
            torch.testing.assert_close(found.latent_mean[index, :used], mean, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.latent_std[index, :used], std, rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("decode", [False, True])
def test_inference_is_the_models(
    options: Options, decode: bool, make_model: ModelFactory, images: Tensor
) -> None:
    model, pixels = make_model(), pixels_of(images)
    inference = Inference(make_model(), precision="fp32", decode=decode)
    for count in (1, 4):
        inference.prepare(count, options)
        check(
            inference(Pixels(pixels[:count]), options),
            model,
            pixels[:count],
            options,
            decode=decode,
        )


def test_untrimmed_slots_are_empty_and_change_nothing(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model()
    with torch.no_grad():
        trimmed = model(images, stop_threshold=300.0)
        full = model(images, stop_threshold=300.0, trim=False)
    slots = trimmed.latents.shape[1]
    assert slots < 4 == full.latents.shape[1]
    assert torch.equal(full.num_slots, trimmed.num_slots)
    assert (full.log_attention[:, slots:] == -torch.inf).all()
    for index, used in enumerate(trimmed.num_slots.tolist()):
        assert (full.log_masks[index, used:] == -torch.inf).all()
        for name in ("log_attention", "log_masks", "latent_mean", "latent_std"):
            one, other = getattr(full, name)[index, :used], getattr(trimmed, name)[index, :used]
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(full.reconstruction, trimmed.reconstruction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_a_cpu_it_is_the_model_under_autocast(
    precision: str,
    name: str,
    decode: bool,
    image_size: int,
    build_small: Callable[..., SlotModel],
) -> None:
    """Weights are made ready once: that changes nothing, and the model stays as it is."""
    model = build_small(name, image_size=image_size)
    before = copy.deepcopy(model.state_dict())
    pixels = torch.randint(0, 256, (2, image_size, image_size, 3), dtype=torch.uint8)
    inference = Inference(model, precision=precision, decode=decode)
    inference.prepare(2, Options(4))
    half = precision == "bf16"
    for _ in range(2):
        found = inference(Pixels(pixels), Options(4))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(
                pixels.permute(0, 3, 1, 2).float() / 255,
                **model.inference_randomness(2, 4),
                num_slots=4,
                decode=decode,
            )
        expected = (out.log_masks if decode else out.log_attention)[:, :, 0].float().exp()
        torch.testing.assert_close(found.masks, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.latent_mean, out.latent_mean, rtol=1e-4, atol=1e-5)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(after[key].dtype == value.dtype for key, value in before.items())


@pytest.mark.slow
def test_importing_the_package_does_not_load_a_compiler() -> None:
    """torch.compile's machinery takes seconds to load, and many do without it."""
    code = (
        "import sys, genesis_core\n"
        "from genesis_core import inference, GenesisV2\n"
        "loaded = [n for n in ('torch._inductor.compile_fx', 'torch._dynamo.convert_frame', "
        "'sympy') if n in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# CUDA


def stand_in_graph(size: int, options: Options) -> Pass:
    """What a graph gives: here, masks that say for what it was recorded."""
    masks = torch.tensor([float(size), float(options.num_slots)])

    def run(pixels: Pixels) -> Found:
        return Found(masks, *torch.zeros(4))

    return run


def found_by(graphs: Graphs, count: int, options: Options = OPTIONS[0]) -> list[float] | None:
    """Batch size and slots of the graph that is taken; None if there is none."""
    graph = graphs.find(count, options)
    return None if graph is None else graph(Pixels(torch.zeros(count))).masks.tolist()


def test_a_batch_takes_the_smallest_graph_that_holds_it() -> None:
    graphs = Graphs(stand_in_graph)
    assert found_by(graphs, 1) is None
    graphs.prepare(4, OPTIONS[0])
    graphs.prepare(1, OPTIONS[0])
    assert [found_by(graphs, count) for count in range(1, 6)] == [
        [1, 4], [4, 4], [4, 4], [4, 4], None,
    ]  # fmt: skip
    # Other options: recorded once, in place of the former.
    assert found_by(graphs, 3, Options(3)) == [4, 3]
    assert graphs.find(3, Options(3)) is graphs.find(4, Options(3))


def test_a_copy_records_its_own_graphs_when_it_needs_them() -> None:
    graphs = Graphs(stand_in_graph)
    graphs.prepare(4, OPTIONS[0])
    graphs.prepare(1, OPTIONS[0])
    inference = Inference(
        GenesisV2(GenesisV2Config(image_size=32)).eval(), precision="fp32", decode=False
    )
    inference._graphs = graphs
    assert copy.deepcopy(inference)._graphs.sizes == (1, 4)
    twin = Graphs(stand_in_graph, graphs.sizes)
    assert [found_by(twin, count) for count in (1, 2, 5)] == [[1, 4], [4, 4], None]


def test_a_pass_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and no further try before somebody prepares it again."""
    tries: list[int] = []

    def record(size: int, options: Options) -> Pass:
        tries.append(size)
        if len(tries) == 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return stand_in_graph(size, options)

    graphs = Graphs(record)
    graphs.prepare(2, OPTIONS[0])
    assert found_by(graphs, 1) is None and found_by(graphs, 2) is None
    assert tries == [2]
    assert [entry.getMessage() for entry in caplog.records] == [
        "2 images cannot be segmented by a CUDA graph, which would be faster: operation not "
        "permitted when stream is capturing"
    ]
    graphs.prepare(2, OPTIONS[0])
    assert found_by(graphs, 1) == [2, 4]


def test_threads_that_want_the_same_graph_record_it_once() -> None:
    tries: list[int] = []

    def record(size: int, options: Options) -> Pass:
        time.sleep(0.05)
        tries.append(size)
        return stand_in_graph(size, options)

    graphs = Graphs(record)
    graphs.prepare(1, OPTIONS[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: graphs.find(1, Options(3)), range(4)))
    assert len(tries) == 2 and found == [found[0]] * 4 and found[0] is not None


@needs_cuda
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_graphs_agree_with_the_cpu(
    name: str, precision: str, build_small: Callable[..., SlotModel], images: Tensor
) -> None:
    model, pixels, options = build_small(name), pixels_of(images), Options(4)
    decode = model.default_mask_source == "decoder"
    graphs = Inference(build_small(name).cuda(), precision=precision, decode=decode)
    graphs.prepare(1, options)
    graphs.prepare(4, options)
    # 2 takes the graph for 4. Each call after the first would show what an earlier one left behind.
    for count in (4, 1, 2, 4):
        for some in (pixels[:count], pixels[:count].flip(1)):
            check(
                graphs(Pixels(some), options), model, some, options, decode=decode, tolerance=0.02
            )


@needs_cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cuda_graphs_of_up_to_eight_images(precision: str, make_model: ModelFactory) -> None:
    """All of a prepared size, fewer than that, and more, which run without a graph."""
    pixels = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8)
    graphs = Inference(
        make_model(mask_thumbnail=8, colour_thumbnail=6, image_thumbnail=8).cuda(),
        precision=precision,
        decode=False,
    )
    graphs.prepare(8, OPTIONS[0])
    for count in (8, 1, 5, 9):
        check(
            graphs(Pixels(pixels[:count]), OPTIONS[0]),
            make_model(mask_thumbnail=8, colour_thumbnail=6, image_thumbnail=8),
            pixels[:count],
            OPTIONS[0],
            decode=False,
            tolerance=0.02,
        )


@needs_cuda
def test_copies_have_cuda_graphs_of_their_own(make_model: ModelFactory, images: Tensor) -> None:
    pixels = pixels_of(images)
    graphs = Inference(make_model().cuda(), precision="bf16", decode=False)
    graphs.prepare(4, OPTIONS[0])
    expected = graphs(Pixels(pixels), OPTIONS[0])
    for twin in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):
        found = twin(Pixels(pixels), OPTIONS[0])
        torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=0.02)
        assert twin._graphs.find(4, OPTIONS[0]) is not graphs._graphs.find(4, OPTIONS[0])


@needs_cuda
def test_a_model_that_waits_for_the_device_runs_without_a_graph(
    make_model: ModelFactory, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model().cuda()

    def wait(module: torch.nn.Module, given: object, features: Tensor) -> None:
        features.sum().item()

    model.backbone.register_forward_hook(wait)
    waiting = Inference(model, precision="fp32", decode=False)
    waiting.prepare(4, OPTIONS[0])
    assert "cannot be segmented by a CUDA graph" in caplog.text
    found, truth = waiting(Pixels(pixels_of(images)), OPTIONS[0]), make_model()
    check(found, truth, pixels_of(images), OPTIONS[0], decode=False, tolerance=0.02)


@needs_cuda
def test_cuda_graphs_follow_changed_options(make_model: ModelFactory, images: Tensor) -> None:
    pixels = pixels_of(images)
    graphs = Inference(make_model().cuda(), precision="fp32", decode=True)
    graphs.prepare(4, OPTIONS[0])
    for options in (*OPTIONS, OPTIONS[0]):
        check(
            graphs(Pixels(pixels), options),
            make_model(),
            pixels,
            options,
            decode=True,
            tolerance=0.02,
        )


@needs_cuda
@pytest.mark.parametrize("threshold", [None, 300.0])
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("thumbnail", [0, 8])
def test_cuda_forward_pass_never_waits_for_the_device(
    thumbnail: int, decode: bool, threshold: float | None, make_model: ModelFactory, images: Tensor
) -> None:
    model, images = (
        make_model(
            mask_thumbnail=thumbnail, colour_thumbnail=thumbnail, image_thumbnail=thumbnail
        ).cuda(),
        images.cuda(),
    )
    randomness = model.inference_randomness(4, 4)

    def forward() -> None:
        with torch.no_grad():
            model(images, stop_threshold=threshold, trim=False, decode=decode, **randomness)

    forward()
    never_waiting(forward)


@needs_cuda
def test_cuda_training_step_never_waits_for_the_device(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = (
        make_model(
            mask_loss=True, latent_dim=7, mask_thumbnail=4, colour_thumbnail=4, image_thumbnail=4
        )
        .cuda()
        .train()
    )
    images = images.cuda()
    labels = torch.randint(0, 5, (4, 32, 32), dtype=torch.uint8, device="cuda")
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    geco = Geco(0.5655 * 3072, num_elements=3072, image_size=32, device="cuda")

    def step() -> None:
        out = model(images)
        losses = model.losses(images, out)
        kl = losses.kl.sum(dim=1).mean() + losses.mask_kl.mean()
        supervised = mask_supervision(out.clusters, labels, num_labels=5).mean()
        supervised = supervised + region_mixture(images, out.log_attention).mean()
        supervised = supervised + latent_anchor(images, out.log_attention, out.latent_mean).mean()
        optimizer.zero_grad(set_to_none=True)
        (geco.loss(losses.nll.mean(), kl) + supervised).backward()
        optimizer.step()
        geco.update(losses.nll.mean())

    step()
    never_waiting(step)


def never_waiting(work: Callable[[], None]) -> None:
    """Run it; an operation that waits for the device raises an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
