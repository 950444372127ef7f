"""`headrace llm key`"""

from __future__ import annotations


def key() -> None:
    """Make an API key, and show it with its hash.

    The key is for the client, and is shown only here. Its hash is for the server: as an entry of [cyan]api_keys[/cyan]
    in a config, or for [cyan]headrace llm serve --api-key[/cyan].
    """
    from headrace.cli.messages import out
    from headrace.llm.api import generate_api_key, hash_api_key

    made = generate_api_key()
    out.print(f"key:  {made}", soft_wrap=True, highlight=False)
    out.print(f"hash: {hash_api_key(made)}", soft_wrap=True, highlight=False)
