"""llama.cpp's own work on a file of an export. Runs in a process of its own, which the `fetch` job starts:
`python -m training.fetch.gguf_quantise SOURCE TARGET TYPE THREADS`.

The library's call takes minutes and heeds no signal, so that whoever wants it to end ends the process.
"""

import sys

from monitoring.attempt import JobFaultError


def require_llama_cpp(kind: str) -> None:
    """Raises JobFaultError `llama_cpp_missing` where the library is not installed or can't be loaded."""
    try:
        import llama_cpp  # noqa: F401 - loading it is the test
    except (ImportError, OSError, RuntimeError) as error:  # the latter two: its shared library is at fault
        raise JobFaultError(
            "llama_cpp_missing",
            f"{kind} is made by llama-cpp-python, which is not installed on this host ({error}).",
            "Run bin/up --extras llama_cpp, or export to Q8_0.",
        ) from error


def main(source: str, target: str, file_type: str, threads: str) -> int:
    """Makes the one file of the other; returns llama.cpp's status, 0 where it went well."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = int(file_type), int(threads)
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
