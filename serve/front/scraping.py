"""Metrics of all nodes as one text in Prometheus' format, so that one address shows them all.

Ray's agents export them at a port of each node, which a firewall or a listener on localhost may
hide from Prometheus. What an ingress replica can reach, it collects.
"""

import asyncio
import re

import aiohttp

PREFIXES = ("ray_s4v_", "ray_vllm_", "ray_serve_")
"""Beginnings of the names that are shown: ours, the engines', and Serve's."""

_NODE_TIMEOUT_S = 5.0
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PART = re.compile(r"_(?:bucket|sum|count|total|created)$")


async def scrape_nodes() -> str:
    """Collect the metrics of every living node. A node that does not answer is left out."""
    addresses = await asyncio.to_thread(_list_addresses)
    timeout = aiohttp.ClientTimeout(total=_NODE_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        texts = await asyncio.gather(*(_scrape(session, address) for address in addresses))
    return merge_metrics(texts)


def _list_addresses() -> list[str]:
    import ray

    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"] and node["MetricsExportPort"] > 0
    ]


async def _scrape(session: aiohttp.ClientSession, address: str) -> str:
    try:
        async with session.get(address) as answer:
            return await answer.text() if answer.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError):
        return ""


def merge_metrics(texts: list[str]) -> str:
    """Merge texts of several nodes: the lines of one metric stand together, described once."""
    families: dict[str, dict[str, None]] = {}
    for line in (line for text in texts for line in text.splitlines()):
        words = line.split(" ")
        is_comment = words[:2] in (["#", "HELP"], ["#", "TYPE"])
        start = _NAME.match(words[2] if is_comment and len(words) > 2 else line)
        if start is None or not start[0].startswith(PREFIXES):
            continue
        lines = families.setdefault(_PART.sub("", start[0]), {})
        key = " ".join(words[:3]) if is_comment else line
        if not any(known.startswith(f"{key} ") for known in lines) or not is_comment:
            lines[line] = None
    return "".join(f"{line}\n" for lines in families.values() for line in _order(lines))


def _order(lines: dict[str, None]) -> list[str]:
    """Put descriptions in front, as parsers want them."""
    return sorted(lines, key=lambda line: not line.startswith("#"))
