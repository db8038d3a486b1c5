"""Takes pictures of a report or a comparison in a real browser without a window: desktop and phone width, light and dark, offline.

    python -m tests.report_screenshot studies/quickstart-1/report/report.html --out pictures

It says what a person would trip over: a page wider than the screen, a plot that was not drawn, an error in the browser's console.
It needs Chromium on the machine (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mlflow_ui_screenshot import BROWSERS, Devtools, open_page

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
MOST_HEIGHT_PX = 16_000  # what the browser still paints in one picture
CHECKS = """JSON.stringify({
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  empty: [...document.querySelectorAll('.plot')].filter(place => !place.querySelector('.main-svg')).map(place => place.id),
  plots: document.querySelectorAll('.plot').length,
  height: document.documentElement.scrollHeight,
})"""
ERRORS = "window.seenErrors = []; addEventListener('error', e => seenErrors.push(e.message));"
ERRORS += "addEventListener('securitypolicyviolation', e => seenErrors.push('policy: ' + e.violatedDirective + ' ' + e.blockedURI));"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", required=True, type=Path, help="a folder for the pictures")
    options = parser.parse_args(arguments)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("no browser: install Chromium (Debian and Ubuntu: apt-get install chromium)")
    options.out.mkdir(parents=True, exist_ok=True)
    complaints = asyncio.run(pictures(browser, options.page.resolve(), options.out))
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


async def pictures(browser: str, page: Path, out: Path) -> list[str]:
    """One picture for each width and scheme; what is wrong with them, in words."""
    complaints: list[str] = []
    async with open_page(browser) as tools:
        await tools.call("Page.enable")
        await tools.call("Network.enable")
        await tools.call("Page.addScriptToEvaluateOnNewDocument", source=ERRORS)
        for name, size in WIDTHS.items():
            for scheme in SCHEMES:
                picture = out / f"{page.stem}-{name}-{scheme}.png"
                found = await photograph(tools, page.as_uri(), size, scheme, picture)
                complaints += [f"{picture.name}: {problem}" for problem in found]
                print(f"{picture}: {picture.stat().st_size} bytes")
    return complaints


async def photograph(tools: Devtools, url: str, size: tuple[int, int], scheme: str, picture: Path) -> list[str]:
    width, height = size
    mobile = width < 600
    await tools.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
    await tools.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await tools.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    await tools.call("Page.navigate", url=url)
    drawn = "document.readyState === 'complete' && (!document.getElementById('plots') || document.documentElement.dataset.drawn || '')"
    for _ in range(600):
        if await tools.evaluate(f"location.href === {json.dumps(url)} && {drawn}"):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    found: dict[str, Any] = json.loads(await tools.evaluate(CHECKS))
    clip = {"x": 0, "y": 0, "width": width, "height": min(found["height"], MOST_HEIGHT_PX), "scale": 1}
    shot = await tools.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    picture.write_bytes(base64.b64decode(shot["data"]))
    problems = [f"wider than the screen by {found['wide']} px"] if found["wide"] > 0 else []
    problems += [f"not drawn: {', '.join(found['empty'])}"] if found["empty"] else []
    return problems + [str(error) for error in await tools.evaluate("window.seenErrors") or []]


if __name__ == "__main__":
    sys.exit(main())
