"""Static files with hashed names, imports between our own ES modules included. Runs in `collectstatic` and in pages.

Django rewrites `import ... from "./x.js"` only when told to, and then in every script; over plotly.min.js that takes
minutes. So it is told for `js/` alone. And Brotli's highest quality takes half a minute over plotly.min.js for a tenth
of its size: the next best but one takes one second.
"""

from typing import Any

import brotli
from whitenoise.compress import Compressor
from whitenoise.storage import CompressedManifestStaticFilesStorage

BROTLI_QUALITY = 9


class QuickCompressor(Compressor):  # type: ignore[misc] # whitenoise is untyped
    """WhiteNoise's compressor, at a quality that a first start can wait for."""

    @staticmethod
    def compress_brotli(data: bytes) -> bytes:
        """The data, compressed."""
        return bytes(brotli.compress(data, quality=BROTLI_QUALITY))


class ModuleStaticFilesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc] # whitenoise is untyped
    """WhiteNoise's compressed, hashed storage that follows the imports of our modules."""

    patterns: Any = (
        *CompressedManifestStaticFilesStorage.patterns,
        ("js/*.js", CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns[1]),
    )

    def create_compressor(self, **options: Any) -> QuickCompressor:
        """What WhiteNoise compresses with."""
        return QuickCompressor(**options)
