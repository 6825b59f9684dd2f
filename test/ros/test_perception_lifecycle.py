"""The perception node's states: driven from outside, refused with a reason, ended cleanly."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from genesis_core import GenesisV2, GenesisV2Config, build_model, config_from_dict, save_model
from genesis_ros.masks import full_masks
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.parameters import RULES, NodeSettings
from genesis_ros.node.publishers import Publishers
from genesis_ros.node.qos import QoSError
from genesis_ros.outputs import PROMPT_OUTPUTS

pytestmark = pytest.mark.slow

TOPIC = "/lifecycle_test/image_raw"
NODE = "/genesis/perception"
MASKS = "/genesis/object_masks"
BASELINES = {  # the other models, small
    "genesis_v1": {"mask_latent_dim": 4, "component_latent_dim": 2, "mask_width": 4},
    "monet": {"latent_dim": 4, "attention_width": 4, "component_width": 4},
    "slot_attention": {"latent_dim": 8, "feature_dim": 8, "hidden_dim": 8},
}

Start = Callable[..., Any]


@pytest.fixture
def start(ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a perception node with these parameters (and sensible others)."""
    processes = []

    def start(*arguments: str, **parameters: object) -> Any:
        given = {
            "checkpoint": str(tiny_checkpoint),
            "device": "cpu",
            "image_topics": [TOPIC],
            "diagnostics_period": 0.2,
            **parameters,
        }
        process = node_process("genesis_ros.perception_node", tmp_path, given, arguments)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.__exit__()


def ask(client: Any, pixels: np.ndarray, masks: list[ObjectMasks]) -> ObjectMasks:
    """Publish an image until it is answered."""
    publisher = client.publisher(Image, TOPIC)
    masks.clear()

    def answered() -> bool:
        publisher.publish(to_message(pixels, Image().header))
        client.spin(0.1)
        return bool(masks)

    client.until(answered, "object masks")
    client.node.destroy_publisher(publisher)
    return masks[-1]


def test_driven_from_outside(client: Any, start: Start, photo: np.ndarray) -> None:
    node = start(autostart=False)
    assert client.state(NODE) == "unconfigured"
    assert not client.transition(NODE, "activate")  # not from here
    answer = client.call(Trigger, "/genesis/reset_tracks", Trigger.Request())
    assert answer.message == "the node is unconfigured; configure and activate it first"
    with client.listen(ObjectMasks, MASKS, heard=False) as masks:
        for _ in range(2):
            assert client.transition(NODE, "configure")
            assert client.state(NODE) == "inactive"
            assert client.node.count_subscribers(TOPIC) == 0
            for _ in range(2):
                assert client.transition(NODE, "activate")
                assert client.state(NODE) == "active"
                assert ask(client, photo, masks).objects
                assert client.transition(NODE, "deactivate")
                client.until(lambda: not client.node.count_subscribers(TOPIC), "unsubscription")
            assert client.transition(NODE, "cleanup")
            assert client.state(NODE) == "unconfigured"
            client.until(lambda: not client.node.count_publishers(MASKS), "end of the publisher")
    assert client.transition(NODE, "unconfigured_shutdown")
    assert client.state(NODE) == "finalized"
    assert node.end() == 0
    assert "Traceback" not in node.log


@pytest.mark.slow
def test_wrong_settings_are_refused_and_can_be_corrected(
    client: Any, start: Start, photo: np.ndarray, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """One node, started with about everything wrong, is set right step by step."""
    missing, broken = tmp_path / "missing.safetensors", tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_checkpoint.read_bytes()[:5000])
    cuda = f"cuda:{torch.cuda.device_count()}"
    node = start(
        checkpoint=str(missing),
        device="gpu",
        max_slots=500,
        precision=16,
        stop_threshold=20,
        max_slot=3,
    )
    node.wait_for_log("cannot configure: ")
    assert "ignored the unknown parameter max_slot; did you mean max_slots?" in node.log
    assert "parameter device is 'gpu'; expected auto, cpu, cuda or cuda:n" in node.log
    assert "parameter max_slots is 500; expected 0 to 64" in node.log
    assert "parameter precision is 16; expected a text" in node.log
    assert client.state(NODE) == "unconfigured"
    assert client.get_parameter(NODE, "stop_threshold") == 20.0

    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        client.until(lambda: reports, "diagnostics")
    (status,) = [status for status in reports[-1].status if status.name == NODE]
    assert status.level == DiagnosticStatus.ERROR
    assert status.message.startswith("cannot configure: parameter device is 'gpu'")

    def set_and_configure(expected: str, **parameters: object) -> None:
        for name, value in parameters.items():
            assert client.set_parameter(NODE, name, value).successful
        assert not client.transition(NODE, "configure")
        assert client.state(NODE) == "unconfigured"
        node.wait_for_log(expected)

    set_and_configure(
        "cannot configure: parameter max_slots is 500", device="cpu", precision="auto"
    )
    set_and_configure(f"cannot configure: checkpoint {missing} does not exist", max_slots=0)
    set_and_configure(f"cannot configure: checkpoint {broken}", checkpoint=str(broken))
    set_and_configure(
        f"cannot configure: device '{cuda}' was asked for, but PyTorch sees",
        checkpoint=str(tiny_checkpoint),
        device=cuda,
    )
    assert client.set_parameter(NODE, "device", "cpu").successful
    assert client.transition(NODE, "configure")
    assert client.transition(NODE, "activate")
    with client.listen(ObjectMasks, MASKS) as masks:
        assert ask(client, photo, masks).objects
    assert "Traceback" not in node.log


@pytest.mark.slow
def test_no_image_topic_and_a_camera_of_too_low_reliability(client: Any, start: Start) -> None:
    node = start(image_topics=[], qos_reliability="reliable")
    node.wait_for_log("cannot configure: parameter image_topics is empty; expected a list of texts")
    assert client.set_parameter(NODE, "image_topics", [TOPIC]).successful
    assert client.transition(NODE, "configure")
    assert client.transition(NODE, "activate")
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.publisher(Image, TOPIC, best_effort, heard=False)
    node.wait_for_log(f"a publisher of {TOPIC} offers best effort only")
    assert "set the parameter qos_reliability to auto or best_effort" in node.log


def test_what_is_fixed_at_start_is_refused_before_the_model_is_loaded(
    client: Any, start: Start
) -> None:
    """To configure again cannot help: who reads the log is told what does."""
    name = "qos_overrides./genesis/label_image.publisher.reliability"
    node = start(autostart=False, **{name: "foo"})
    for _ in range(2):
        assert not client.transition(NODE, "configure")
    node.wait_for_log(f"cannot configure: parameter {name} is 'foo'; expected one of ")
    assert "(start the node again without it)" in node.log
    assert "configure again" not in node.log and "loading" not in node.log
    assert not client.node.count_publishers(MASKS)


def test_publishers_that_fail_leave_nothing_behind(ros: None) -> None:
    name = "qos_overrides./halfway/label_image.publisher.reliability"
    node = LifecycleNode(
        "halfway",
        namespace="halfway",
        use_global_arguments=False,
        parameter_overrides=[Parameter(name, value="foo")],
    )
    before = {publisher.topic_name for publisher in node.publishers}
    with pytest.raises(QoSError, match="label_image"):
        Publishers(node, ["camera"], PROMPT_OUTPUTS)
    assert {publisher.topic_name for publisher in node.publishers} == before
    node.destroy_node()


def test_a_failure_is_forgotten_with_the_transition(client: Any, start: Start) -> None:
    """Diagnostics tell it as long as the node is where the failed transition left it."""
    name = f"qos_overrides.{TOPIC}.subscription.depth"
    node = start(**{name: 0})
    node.wait_for_log("cannot activate: ")
    with client.listen(DiagnosticArray, "/diagnostics") as reports:

        def told(state: str) -> DiagnosticStatus:
            """What diagnostics say of the node once it is in this state."""
            reports.clear()
            assert client.state(NODE) == state
            client.until(lambda: len(reports) > 1, "diagnostics")
            return client.status(reports[-1], NODE)[0]

        failed = told("inactive")
        assert failed.level == DiagnosticStatus.ERROR
        assert failed.message.startswith("cannot activate: ")
        assert client.transition(NODE, "cleanup")
        assert "cannot" not in told("unconfigured").message
        assert client.transition(NODE, "configure")
        assert not client.transition(NODE, "activate")
        assert "cannot activate: " in told("inactive").message
        assert client.transition(NODE, "inactive_shutdown")
        assert "cannot" not in told("finalized").message


def another(name: str, value: Any) -> Any:
    """An allowed value of a parameter, other than this one."""
    two = {"autostart": (True, False), "device": ("auto", "cpu")}
    choices = RULES[name].choices or two.get(name, ("other", "another"))
    other = next(choice for choice in choices if choice != value)
    return [other] if isinstance(value, tuple | list) else other


def test_parameters_of_a_running_node(
    client: Any, start: Start, photo: np.ndarray, tiny_checkpoint: Path
) -> None:
    node = start(min_area=0.0)
    node.wait_for_log("active: ")

    # What is declared is what parameters.py says.
    for name, descriptor in zip(RULES, client.describe_parameters(NODE, list(RULES)), strict=True):
        rule = RULES[name]
        assert (descriptor.name, descriptor.description) == (name, rule.description)
        assert rule.allowed in descriptor.additional_constraints
        spans = [*descriptor.integer_range, *descriptor.floating_point_range]
        expected = [] if rule.low is None else [(rule.low, rule.high)]
        assert [(span.from_value, span.to_value) for span in spans] == expected
    defaults = vars(NodeSettings())
    for name in ("max_slots", "fit", "overlay_alpha", "qos_reliability"):
        assert client.get_parameter(NODE, name) == defaults[name]

    # Bad values.
    for name, value, reason in (
        ("overlay_alpha", 1.5, "overlay_alpha"),
        ("fit", "stretch", "parameter fit is 'stretch'; expected one of resize, crop"),
        ("max_slots", 1, "parameter max_slots is 1; a single slot cannot tell objects apart"),
        ("max_slots", "many", "max_slots"),
        ("min_area", "big", "min_area"),
    ):
        result = client.set_parameter(NODE, name, value)
        assert not result.successful
        assert reason in result.reason or "Wrong parameter type" in result.reason
    assert client.get_parameter(NODE, "fit") == "resize"

    # Good values of what cannot change now; those that are set already change nothing.
    for name in [name for name, rule in RULES.items() if not rule.live]:
        value = client.get_parameter(NODE, name)
        assert client.set_parameter(NODE, name, value).successful
        result = client.set_parameter(NODE, name, another(name, value))
        assert not result.successful
        assert f"parameter {name} cannot change while the node is configured" in result.reason
        assert "clean up" in result.reason

    # What can change shows in the next frame.
    with client.listen(ObjectMasks, MASKS) as masks:
        everything = ask(client, photo, masks)
        assert len(everything.objects) >= 3
        assert client.set_parameter(NODE, "max_slots", 2).successful
        client.spin(0.3)
        assert len(ask(client, photo, masks).objects) <= 2
        assert client.set_parameter(NODE, "max_slots", 0).successful
        assert client.set_parameter(NODE, "fit", "crop").successful
        client.spin(0.3)
        seen = full_masks(ask(client, photo, masks)).sum(axis=0)
        assert not seen[:, :8].any() and not seen[:, -8:].any()  # 48x64: 8 columns on each side
        np.testing.assert_allclose(seen[:, 8:-8], 1, atol=1e-6)
        assert client.set_parameter(NODE, "min_area", 1).successful  # an integer will do
        client.spin(0.3)
        assert not ask(client, photo, masks).objects


@pytest.mark.slow
def test_a_node_that_stood_still_lost_nothing_of_a_reliable_camera(
    client: Any, start: Start, photo: np.ndarray
) -> None:
    """What newer images took the place of, or what came before the node listened, is not lost."""
    node = start(min_area=0.0)
    node.wait_for_log("active: listening to")
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):
        camera = client.publisher(Image, TOPIC, 1)
        message = to_message(photo.repeat(8, axis=0).repeat(8, axis=1), Image().header)
        published = 0

        def publish() -> bool:
            """Whether an image was answered that the node was awake for."""
            nonlocal published
            published += 1
            message.header.frame_id = str(published)
            camera.publish(message)
            client.spin(0.01)
            return bool(masks) and int(masks[-1].header.frame_id) > 50

        node.send(signal.SIGSTOP)
        for _ in range(40):
            publish()
        node.send(signal.SIGCONT)
        client.until(publish, "masks of an image that was published later")
        reports.clear()
        client.until(lambda: len(reports) > 1, "reports")
        count = client.frame_counts(reports[-1], f"{NODE}: {TOPIC}")
    assert count["lost"] == 0
    assert 0 < count["received"] <= published


def test_simulated_time_that_stands_still(client: Any, start: Start, photo: np.ndarray) -> None:
    """Nobody publishes /clock; the node still hears its camera and tells how it is."""
    node = start(use_sim_time=True)
    node.wait_for_log("active: ")
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = client.publisher(Image, TOPIC, best_effort, heard=False)
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):

        def answered() -> bool:
            publisher.publish(to_message(photo, Image().header))
            client.spin(0.1)
            return bool(masks) and bool(reports)

        client.until(answered, "object masks and diagnostics")


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_is_loaded(
    start: Start, tmp_path: Path, signal_number: int
) -> None:
    checkpoint = tmp_path / "large.safetensors"
    save_model(GenesisV2(GenesisV2Config(image_size=256, feature_dim=128)), checkpoint)
    node = start(checkpoint=str(checkpoint))
    node.wait_for_log("loading ")
    assert node.end(signal_number) == 0
    assert "active: " not in node.log


@pytest.mark.slow
@pytest.mark.parametrize("model", BASELINES)
def test_another_model_runs_and_refuses_what_it_cannot_do(
    model: str, client: Any, start: Start, tmp_path: Path, photo: np.ndarray
) -> None:
    """GENESIS-V2 alone has a flexible number of slots."""
    checkpoint = tmp_path / "other.safetensors"
    values = {"model": model, "image_size": 32, "num_slots": 3, **BASELINES[model]}
    save_model(build_model(config_from_dict(values)), checkpoint)
    node = start(checkpoint=str(checkpoint), min_area=0.0)
    node.wait_for_log("active: ")
    result = client.set_parameter(NODE, "stop_threshold", 20.0)
    assert not result.successful
    assert f"{model} model, whose number of slots is fixed" in result.reason
    assert client.get_parameter(NODE, "stop_threshold") == -1.0
    with client.listen(ObjectMasks, MASKS) as masks:
        answer = ask(client, photo, masks)
    assert 1 <= len(answer.objects) <= 3
    np.testing.assert_allclose(full_masks(answer).sum(axis=0), 1, atol=1e-5)
    assert "Traceback" not in node.log


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_in_the_middle_of_work(
    client: Any, start: Start, photo: np.ndarray, signal_number: int
) -> None:
    node = start()
    publisher = client.publisher(Image, TOPIC)
    with client.listen(ObjectMasks, MASKS) as masks:

        def busy() -> bool:
            publisher.publish(to_message(photo, Image().header))
            client.spin(0.01)
            return len(masks) > 3

        client.until(busy, "a few object masks")
        for _ in range(5):
            publisher.publish(to_message(photo, Image().header))
        assert node.end(signal_number) == 0
    assert "Traceback" not in node.log and "Error" not in node.log


@pytest.mark.slow
def test_a_model_that_fails_costs_the_frame_only(
    client: Any, start: Start, tmp_path: Path, photo: np.ndarray
) -> None:
    """Weights so large that any image but a black one overflows to NaN."""
    model = GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, num_slots=4))
    first = next(weights for weights in model.parameters() if weights.ndim == 4)
    with torch.no_grad():
        first.fill_(3e38)
    checkpoint = tmp_path / "overflowing.safetensors"
    save_model(model, checkpoint)
    node = start(checkpoint=str(checkpoint), precision="fp32")
    node.wait_for_log("active: ")
    publisher = client.publisher(Image, TOPIC)
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):

        def failed() -> bool:
            publisher.publish(to_message(photo, Image().header))
            client.spin(0.1)
            states = [status for report in reports for status in report.status]
            return any("frames lost: ValueError: " in status.message for status in states)

        client.until(failed, "an error in the diagnostics")
        assert not masks
        ask(client, np.zeros_like(photo), masks)
    assert f"lost a frame of {TOPIC}: ValueError: the model's masks are not finite" in node.log
    assert node.alive
