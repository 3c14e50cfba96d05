"""Pictures that honest software does not make: small files that cost much, or that only some decoders take."""

from finecap.pictures import encoded


def many_scans(image, repeats):
    """A progressive JPEG whose last scan is repeated `scans` times."""
    data = encoded(image, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + (1 + repeats) * data[start:-2] + data[-2:]


def grey_only(image):
    """A JPEG that libjpeg decodes in grey and not in colour: 3 blocks of brightness to 2 of each colour."""
    data = bytearray(encoded(image, "JPEG", subsampling=0))
    at = data.index(b"\xff\xc0") + 10
    data[at + 1], data[at + 4], data[at + 7] = 0x31, 0x21, 0x21
    return bytes(data)
