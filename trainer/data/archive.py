"""Whether a tar file was read to its end."""

import tarfile

from trainer.errors import UserError

_READ = 1 << 20  # bytes at a time


def require_end(tar: tarfile.TarFile, name: object, remedy: str) -> None:
    """Raises UserError if there is more in an archive than the members that were read, which must be all.

    tarfile takes each damaged header but the first for the end of the archive (tarfile.py, TarFile.next). At its end
    an archive has blocks of zeros, and nothing else (POSIX.1-2008, pax, ustar interchange format).
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(_READ)
    if len(block) < tarfile.BLOCKSIZE:
        raise UserError(f"{name} is truncated: it ends at byte {tar.offset:,} without the mark of its end: {remedy}")
    while block:
        if block.strip(b"\0"):
            raise UserError(
                f"{name} is damaged, or several archives in one file: at byte {tar.offset:,} there is neither a member "
                f"nor the end: {remedy}"
            )
        block = tar.fileobj.read(_READ)
