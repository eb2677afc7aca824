"""The opener behind downloads: web addresses only, and redirects that stay among them."""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

from rlseg.errors import DatasetNotFoundError

__all__ = ["make_opener"]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web addresses, and never from an encrypted one to a plain one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow, or an error."""
        if (urlsplit(req.full_url).scheme, urlsplit(newurl).scheme) == ("https", "http"):
            raise DatasetNotFoundError(
                f"{req.full_url}: the server sends on to {newurl[:200]!a}, which is not encrypted; "
                "not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> Any:
        """As the parent does, which also refuses some addresses before asking us."""
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme
        if scheme and scheme not in ("http", "https"):
            raise DatasetNotFoundError(
                f"{req.full_url}: the server sends on to {target[:200]!a}, which is no web address"
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def make_opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone; the default one would also open files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
