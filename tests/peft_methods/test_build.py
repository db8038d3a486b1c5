"""Every method on a tiny real LLaVA: what is trained, what it does, saving, merging, and refusals by name."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.slow

from tests.peft_methods.tiny import QwenNames, inputs, llava  # noqa: E402
from trainables.peft_methods.spec import PeftSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

LLM = "model.language_model.layers"
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "lora": {"r": 4}},
    "rslora": {"method": "lora", "lora": {"r": 4, "rslora": True}},
    "dora": {"method": "lora", "lora": {"r": 4, "dora": True}},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck": {"size": 4}},
    "parallel": {"method": "bottleneck", "bottleneck": {"size": 4, "placement": "parallel", "init": "identity"}},
    "prefix": {"method": "prefix", "prefix": {"tokens": 3}},
    "projected prefix": {"method": "prefix", "prefix": {"tokens": 3, "projection": True, "projection_size": 16}},
    "prompt": {"method": "prompt", "prompt": {"tokens": 3}},
    "adalora": {"method": "adalora", "adalora": {"init_r": 4, "target_r": 2}},
    "vera": {"method": "vera", "vera": {"r": 8}},
    "oft": {"method": "oft", "oft": {"block_size": 8, "targets": ["q_proj", "down_proj"]}},
    "ln_tuning": {"method": "ln_tuning"},
    "full": {"method": "full", "full": {"last_layers": 1}},
    "frozen": {"method": "frozen"},
    "other": {"method": "other", "other": {"type": "loha", "config": {"r": 2}}},
}


@functools.cache
def shared_base() -> Any:
    return llava()


@pytest.fixture
def base() -> Any:
    """Not to be changed: `built` copies it."""
    return shared_base()


def built(base: Any, seed: int = 0, **fields: Any) -> Any:
    from trainables.peft_methods.build import build

    return build(copy.deepcopy(base), PeftSpec.model_validate(fields), seed=seed, total_steps=100)


def trained_names(adapted: Any) -> set[str]:
    return {adapted.plain_name(name) for name, _ in adapted.trained()}


def moved(adapted: Any) -> Any:
    """`adapted` after a backward, and with everything that is trained moved away from where it started."""
    torch.manual_seed(1)
    adapted.module.train()
    adapted.module(**inputs()).loss.backward()
    assert [key for key, parameter in adapted.trained() if parameter.grad is None] == [], "trained, but it gets no gradient"
    adapted.module.eval()
    with torch.no_grad():
        for _, parameter in adapted.trained():
            parameter += torch.randn_like(parameter) * 0.05
            parameter.grad = None
    return adapted


@functools.cache
def moved_of(name: str) -> Any:
    """Of METHODS with a tuned connector; not to be changed."""
    return moved(built(shared_base(), **METHODS[name], connector="tuned"))


def logits(model: Any, **changed: torch.Tensor) -> torch.Tensor:
    given = {key: value for key, value in {**inputs(), **changed}.items() if key != "labels"}
    with torch.no_grad():
        return model(**given).logits


def problem_of(base: Any, **fields: Any) -> tuple[str, str, str]:
    with pytest.raises(UserError) as caught:
        built(base, **fields)
    (problem,) = caught.value.problems
    return problem.where, problem.got, problem.fix


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_trains_its_own_parameters_and_the_connector_and_nothing_else(base: Any, name: str) -> None:
    adapted = moved_of(name)
    connector = {key for key in trained_names(adapted) if adapted.anatomy.part_of(key) == "connector"}
    assert connector == {f"model.multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    rest = trained_names(adapted) - connector
    assert (rest == set()) is (name == "frozen")
    assert not any("vision_tower" in key or "lm_head" in key for key in rest)
    still = {key: value for key, value in base.state_dict().items() if key not in trained_names(adapted)}
    now = {adapted.plain_name(key): value for key, value in adapted.module.state_dict().items() if "modules_to_save" not in key}
    assert all(torch.equal(now[key], value) for key, value in still.items()), "a frozen weight stays as it was"
    assert not torch.allclose(logits(adapted.module)[:, -8:], logits(base)[:, -8:])


@pytest.mark.parametrize("name", ["prefix", "prompt", "lora"])
def test_the_picture_still_reaches_the_answer(base: Any, name: str) -> None:
    adapted = built(base, **METHODS[name])
    adapted.module.eval()
    assert not torch.allclose(logits(adapted.module), logits(adapted.module, pixel_values=torch.zeros(2, 3, 32, 32)))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("prefix", "projected prefix", "prompt")])
def test_a_method_that_starts_as_the_identity_does(base: Any, name: str) -> None:
    adapted = built(base, **METHODS[name]) if name != "frozen" else built(base, method="frozen", connector="tuned")
    adapted.module.eval()
    assert torch.allclose(logits(adapted.module), logits(base), atol=1e-5) is (name != "bottleneck")


@pytest.mark.parametrize("name", list(METHODS))
def test_what_was_trained_is_saved_and_loaded(base: Any, name: str, tmp_path: Path) -> None:
    from trainables.peft_methods.save import load_adapter, save_adapter

    adapted = moved_of(name)
    save_adapter(adapted, tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".md", ".safetensors"}
    again = load_adapter(copy.deepcopy(base), tmp_path).eval()
    assert torch.allclose(logits(again), logits(adapted.module), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if "prefix" not in name and name not in ("prompt", "bottleneck", "parallel")])
def test_a_merged_model_is_a_plain_one_with_the_same_answers(base: Any, name: str) -> None:
    from trainables.peft_methods.save import merged

    adapted = moved_of(name)
    before = logits(adapted.module)
    plain = merged(dataclasses.replace(adapted, module=copy.deepcopy(adapted.module)))
    assert type(plain) is type(base) and plain.state_dict().keys() == base.state_dict().keys()
    assert torch.allclose(logits(plain), before, atol=1e-5)


@pytest.mark.parametrize(("name", "text"), [("prefix", "learns tokens"), ("prompt", "learns tokens"), ("bottleneck", "no linear map")])
def test_what_cannot_be_merged_is_refused_by_name(base: Any, name: str, text: str) -> None:
    from trainables.peft_methods.save import merged

    with pytest.raises(UserError) as caught:
        merged(built(base, **METHODS[name]))
    (problem,) = caught.value.problems
    assert text in problem.got and "export the adapter without merging" in problem.fix


def test_an_adapter_of_another_base_model_is_refused_by_name(base: Any, tmp_path: Path) -> None:
    from trainables.peft_methods.save import load_adapter, save_adapter

    for name, fields in (("lora", METHODS["lora"]), ("frozen", {"method": "frozen", "connector": "tuned"})):
        save_adapter(built(base, **fields), tmp_path / name)
        wider = QwenNames() if name == "frozen" else llava(n_layers=2)
        if name == "lora":
            wider.model.language_model.layers[0].self_attn.q_proj = nn.Linear(32, 48, bias=False)
        with pytest.raises(UserError) as caught:
            load_adapter(wider, tmp_path / name)
        assert "give the base model it was trained from" in caught.value.problems[0].fix


# ---- where


@pytest.mark.parametrize(
    ("fields", "leaves"),
    [
        ({"location": "attn"}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"location": "mlp"}, {"gate_proj", "up_proj", "down_proj"}),
        ({}, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ({"targets": ["q_proj", "self_attn.v_proj"]}, {"q_proj", "v_proj"}),
    ],
)
def test_location_and_targets_choose_the_linear_layers(base: Any, fields: dict[str, Any], leaves: set[str]) -> None:
    names = trained_names(built(base, method="lora", lora=fields))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == leaves
    assert {name.split(".")[3] for name in names} == {"0", "1"} and all(name.startswith(LLM) for name in names)


@pytest.mark.parametrize(("fields", "blocks"), [({"layers": [0, 1]}, {"0"}), ({"last_layers": 2}, {"1", "2"}), ({}, {"0", "1", "2"})])
@pytest.mark.parametrize("method", ["lora", "ia3", "bottleneck", "ln_tuning", "oft"])
def test_a_layer_range_holds_for_every_method_with_layers(method: str, fields: dict[str, Any], blocks: set[str]) -> None:
    more = {"block_size": 8} if method == "oft" else {}
    names = trained_names(built(llava(n_layers=3), method=method, **{method: {**fields, **more}}))
    assert {name.split(".")[3] for name in names} == blocks


def test_ia3_scales_keys_and_values_and_the_input_of_down(base: Any) -> None:
    adapted = built(base, method="ia3")
    shapes = {adapted.plain_name(name).split(".", 4)[4].rpartition(".ia3_l")[0]: tuple(p.shape) for name, p in adapted.trained()}
    assert shapes == {"self_attn.k_proj": (32, 1), "self_attn.v_proj": (32, 1), "mlp.down_proj": (1, 64)}


def test_serial_adapters_stand_where_the_paper_puts_them(base: Any) -> None:
    adapted = built(base, method="bottleneck", bottleneck={"size": 4})
    sides = {name.rpartition(".")[2]: dict(part.side) for name, part in adapted.module.named_modules() if hasattr(part, "bottleneck_up")}
    inputs_, outputs = ({key for key, side in sides.items() if side == {"default": wanted}} for wanted in ("input", "output"))
    assert inputs_ == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"} and outputs == {"o_proj", "down_proj"}


def test_the_published_targets_of_qwen_vl_are_found_by_its_own_names() -> None:
    from trainables.peft_methods.anatomy import anatomy_of
    from trainables.peft_methods.method_specs import BottleneckSpec, Ia3Spec
    from trainables.peft_methods.targets import BOTTLENECK_ROLES, chosen_linears, ia3_linears, output_side

    anatomy = anatomy_of(QwenNames())
    assert (anatomy.vision, anatomy.connectors) == ("transformer.visual", ("transformer.visual.attn_pool",))
    assert len(anatomy.blocks) == 2
    places, inner = ia3_linears(Ia3Spec(), anatomy, "peft.ia3")
    assert {place.name.partition(".h.0.")[2] for place in places} - {""} == {"attn.c_proj", "mlp.c_proj"}
    assert {place.name.partition(".h.0.")[2] for place in inner} - {""} == {"mlp.c_proj"}
    adapter = BottleneckSpec(targets=("w1", "w2", "attn.c_proj"))
    places = chosen_linears(adapter, anatomy, "peft.bottleneck", BOTTLENECK_ROLES)
    assert {place.leaf for place in places} == {"w1", "w2", "c_proj"} and len(places) == 6
    assert {place.name.partition(".h.0.")[2] for place in output_side(places, None, "")} - {""} == {"attn.c_proj"}


def test_connector_and_vision_tower_take_lora_too(base: Any) -> None:
    adapted = built(base, method="lora", lora={"r": 4, "rank_pattern": {"linear_1": 2, "down_proj": 8}}, connector="lora", vision="lora")
    parts = {adapted.part_of(name) for name, _ in adapted.trained()}
    assert parts == {"llm", "connector", "vision"} and all("lora_" in name for name, _ in adapted.trained())
    ranks = {adapted.plain_name(n).split(".lora_A")[0].rpartition(".")[2]: p.shape[0] for n, p in adapted.trained() if "lora_A" in n}
    assert (ranks["linear_1"], ranks["linear_2"], ranks["down_proj"], ranks["q_proj"]) == (2, 4, 8, 4)


def test_named_targets_hold_in_the_vision_tower_too(base: Any) -> None:
    names = trained_names(built(base, method="lora", lora={"r": 1, "targets": ["q_proj", "v_proj"]}, vision="lora"))
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "v_proj"}


def test_a_tuned_vision_tower_is_trained_whole(base: Any) -> None:
    names = trained_names(built(base, method="lora", vision="tuned"))
    tower = {name for name, _ in base.named_parameters() if "vision_tower" in name}
    assert {name for name in names if "vision_tower" in name} == tower


def test_full_without_a_range_trains_embeddings_and_output_but_no_picture_part(base: Any) -> None:
    names = trained_names(built(base, method="full"))
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight", "model.language_model.norm.weight"} <= names
    assert not any("vision_tower" in name or "projector" in name for name in names)


def test_the_seed_draws_the_new_weights_and_leaves_the_generator_alone(base: Any) -> None:
    state = torch.get_rng_state()
    first, again, other = (built(base, seed, **METHODS["lora"]).module.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# ---- groups


def test_each_part_has_its_own_rate_and_norms_and_biases_do_not_decay(base: Any) -> None:
    from trainables.peft_methods.build import parameter_groups

    adapted = built(base, method="full", connector="tuned", vision="tuned", lr_factors={"connector": 0.1, "vision": 0.01, "head": 10.0})
    groups = {group["name"]: group for group in parameter_groups(adapted, lr=1e-3, weight_decay=0.1)}
    assert {name: round(group["lr"], 9) for name, group in groups.items() if "/" not in name} == {
        "llm": 1e-3,
        "connector": 1e-4,
        "vision": 1e-5,
        "head": 1e-2,
    }
    assert {name: group["weight_decay"] for name, group in groups.items() if "/" in name} == dict.fromkeys(
        ("llm/undecayed", "connector/undecayed", "vision/undecayed"), 0.0
    )
    grouped = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for _, parameter in adapted.trained()}


def test_a_rate_of_a_part_that_is_not_trained_is_refused(base: Any) -> None:
    from trainables.peft_methods.build import parameter_groups

    with pytest.raises(UserError, match="a factor for the head, of which nothing is trained"):
        parameter_groups(built(base, method="lora", lr_factors={"head": 2.0}), lr=1e-3, weight_decay=0.0)


def test_a_head_of_its_own_is_trained_and_has_its_rate(base: Any) -> None:
    from trainables.peft_methods.build import build, parameter_groups

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.top = copy.deepcopy(base), nn.Linear(32, 3)

        def forward(self, **named: torch.Tensor) -> torch.Tensor:
            return self.top(self.body(**named, output_hidden_states=True).hidden_states[-1][:, -1])

    spec = PeftSpec.model_validate({"method": "lora", "lora": {"r": 2}, "lr_factors": {"head": 10.0}})
    adapted = build(Classifier(), spec, seed=0, head="top", generative=False)
    groups = {group["name"]: group for group in parameter_groups(adapted, lr=1e-3, weight_decay=0.0)}
    assert groups["head"]["lr"] == pytest.approx(1e-2) and [tuple(p.shape) for p in groups["head"]["params"]] == [(3, 32), (3,)]
    sample = {key: value for key, value in inputs().items() if key != "labels"}
    adapted.module(**sample).sum().backward()
    assert all(parameter.grad is not None for _, parameter in adapted.trained())


# ---- refusals


@pytest.mark.parametrize(
    ("fields", "where", "got", "fix"),
    [
        (
            {"method": "lora", "lora": {"targets": ["q_prj"]}},
            "peft.lora.targets",
            "q_prj, which matches no linear layer of the adapted blocks (did you mean 'q_proj'?)",
            "use targets of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        ),
        ({"method": "ia3", "ia3": {"layers": [1, 3]}}, "peft.ia3.layers", "[1, 3], but the model has 2 blocks", "end it at 2 at most"),
        ({"method": "lora", "lora": {"last_layers": 5}}, "peft.lora.last_layers", "5, but the model has 2 blocks", "set it to 2 at most"),
        (
            {"method": "frozen"},
            "peft.method",
            "frozen with connector frozen and vision frozen, which leaves nothing to train",
            "set connector: tuned, or choose a method that trains the language model",
        ),
        (
            {"method": "lora", "lora": {"rank_pattern": {"lm_head": 4}}},
            "peft.lora.rank_pattern",
            "lm_head, which is the end of no adapted module",
            "use q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        ),
        (
            {"method": "other", "other": {"type": "loha", "config": {"rr": 2}}},
            "peft.other.config.rr",
            "a field that LoHaConfig lacks (did you mean 'r'?)",
            "remove it, or correct it",
        ),
        (
            {"method": "bottleneck", "bottleneck": {"targets": ["q_proj"], "output_targets": ["k_proj"]}},
            "peft.bottleneck.output_targets",
            "k_proj, which matches no linear layer of the adapted blocks (did you mean 'q_proj'?)",
            "use targets of q_proj",
        ),
    ],
)
def test_a_spec_that_does_not_fit_the_model_is_refused_by_name(base: Any, fields: dict[str, Any], where: str, got: str, fix: str) -> None:
    assert problem_of(base, **fields) == (where, got, fix)


def test_an_unknown_method_of_the_library_is_refused_with_the_nearest(base: Any) -> None:
    where, got, fix = problem_of(base, method="other", other={"type": "lohaa"})
    assert (where, got) == ("peft.other.type", "lohaa, unknown to the installed peft (did you mean 'loha'?)")
    assert "boft" in fix


def test_a_block_size_that_does_not_divide_is_refused(base: Any) -> None:
    where, got, _ = problem_of(base, method="oft", oft={"block_size": 12})
    assert where == "peft.oft.block_size" and "12, which does not divide the 32 inputs of" in got


def test_a_connector_that_the_model_lacks_is_refused() -> None:
    language_model = nn.Module()
    language_model.layers = nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(4, 4)})])
    where, got, fix = problem_of(language_model, method="lora", connector="tuned")
    assert (where, got, fix) == ("peft.connector", "tuned, but no connector is found in this model", "set connector: frozen")


def test_a_model_without_blocks_is_refused() -> None:
    where, got, _ = problem_of(nn.Sequential(nn.Linear(4, 4)), method="lora")
    assert where == "peft.lora" and "no list of decoder blocks is found" in got
