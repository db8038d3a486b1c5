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
_FORMS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "an OpenAI or Anthropic key": r"\bsk-(?:proj-|svcacct-|ant-)?[A-Za-z0-9_-]{32,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Weights & Biases or Ray token": r"\b(?:WANDB_API_KEY|wandb_api_key|RAY_AUTH_TOKEN|ray_auth_token)\s*[:=]\s*[\"']?[0-9a-f]{32,}",
}
_FORM = re.compile("|".join(f"(?P<f{i}>{form})" for i, form in enumerate(_FORMS.values())))


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
    match = _FORM.search(text)
    if match is None or match.lastgroup is None:
        return None
    return f"{list(_FORMS)[int(match.lastgroup[1:])]}, in line {_line(text, match.start())}"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
