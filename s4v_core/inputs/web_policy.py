"""How images are fetched from web servers: politely, and with a bounded patience."""

from importlib.metadata import PackageNotFoundError, version

from s4v_core.config import Config

AGENT_TOKEN = "s4v"
"""Name by which an X-Robots-Tag can address this tool alone (`X-Robots-Tag: s4v: noai`)."""


def name_agent() -> str:
    """The User-Agent of this tool and version."""
    try:
        return f"{AGENT_TOKEN}/{version('s4v')} (image captioning)"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return f"{AGENT_TOKEN} (image captioning)"


class WebPolicy(Config):
    """Limits for URL inputs. They hold in each process that reads, of which a node has several."""

    max_requests: int = 64
    """Requests of one process that are in flight at the same time."""
    max_requests_per_host: int = 32
    """Requests of one process to one host that are in flight at the same time."""
    connect_timeout_s: float = 10.0
    """Longest time to look a host up and to connect to it, in seconds."""
    silence_timeout_s: float = 10.0
    """Longest time without a byte of the answer, in seconds."""
    timeout_s: float = 60.0
    """Longest time for one request and its body, in seconds."""
    max_tries: int = 3
    """Requests for one URL whose server fails, is overloaded or breaks off."""
    max_wait_s: float = 10.0
    """Longest wait between two tries, in seconds; a longer `Retry-After` ends the tries."""
    max_redirects: int = 5
    """Redirects that are followed for one URL."""
    max_host_failures: int = 10
    """Requests in a row that did not reach a host, after which it is left alone for a while."""
    host_rest_s: float = 300.0
    """Time in seconds for which a host that cannot be reached is left alone."""
    min_lost_hosts: int = 8
    """Hosts that must all be out of reach before our own network is suspected."""
    max_file_mib: int = 64
    """Largest body where no other limit is given, in MiB."""
    user_agent: str = name_agent()
    """The User-Agent header, which names this tool and its version."""
    disallowed_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """Directives of `X-Robots-Tag` that are honoured: such an image is not used."""
