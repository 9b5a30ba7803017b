"""For MkDocs: the API reference is made from the OpenAPI document whenever the site is built."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from proxy.openapi_doc import document, page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "reference.md", content=page(document())))
    return files
