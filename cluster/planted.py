"""Keys and tokens in files that are about to leave this machine: by the name of a file, by the form of a text, or word for word.

The forms are those that their issuers publish for scanners. It finds what was left lying about, not what someone hides.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path, PurePosixPath

_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ovpn",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".pgpass", ".htpasswd", ".git-credentials",
    "credentials", "credentials.json", "client_secret*.json", "*service[-_]account*.json", "kubeconfig", "*.kubeconfig",
    "auth_token", "*token.txt", "secrets.y*ml", "secrets.json",
)  # fmt: skip
_INNOCENT = (".env.example", ".env.sample", ".env.template", "*.pub")
_SCANNED_BYTES = 2 * 2**20
_BINARY_WITHIN = 8192  # a file with a zero byte this early is no text; it is searched for whole words only
# sort -> what every one of them contains, so that most files need no search, and its form
_FORMS = {
    "a private key": (("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "an OpenAI or Anthropic key": (("sk-",), r"\bsk-(?:proj-|svcacct-|ant-)?[A-Za-z0-9_-]{32,}"),
    "an AWS access key": (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    ),
    "a GitLab token": (("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "a Hugging Face token": (("hf_",), r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a Slack token": (("xox",), r"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
    "a Google API key": (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
    "a token of Ray or Weights & Biases": (
        ("RAY_AUTH_TOKEN", "WANDB_API_KEY"),
        r"\b(?:RAY_AUTH_TOKEN|WANDB_API_KEY)[\"']?\s*[:=]\s*[\"']?[0-9a-f]{32,}",
    ),
}


def secret_in_name(path: PurePosixPath) -> str | None:
    """What a file of this name usually holds, or None."""
    name = path.name.lower()
    if any(fnmatch.fnmatch(name, pattern) for pattern in _INNOCENT):
        return None
    if any(fnmatch.fnmatch(name, pattern) for pattern in _NAMES):
        return f"a file that usually holds keys or passwords ({path.name})"
    return None


def secret_in_text(file: Path, hidden: tuple[str, ...] = ()) -> str | None:
    """The sort and line of the first secret in the first two megabytes of a file, never the secret itself; None if there is none.

    hidden: texts that must not be there word for word; those shorter than 8 characters would be found everywhere and are not looked for.
    """
    with file.open("rb") as opened:
        text = opened.read(_SCANNED_BYTES).decode("latin-1")
    for word in hidden:
        if len(word) >= 8 and (at := text.find(word)) >= 0:
            return f"a value that is secret here, in line {_line(text, at)}"
    if "\0" in text[:_BINARY_WITHIN]:
        return None
    for sort, (markers, form) in _FORMS.items():
        if any(marker in text for marker in markers) and (match := re.search(form, text)):
            return f"{sort}, in line {_line(text, match.start())}"
    return None


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
