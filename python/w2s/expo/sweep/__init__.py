"""Choosing α of an extrapolation (arXiv 2404.16792): every α served in place, judged, compared.

`serving` puts θ(α) into a loaded model, `writers` draws responses with it, `rewards` scores them,
`guard` watches the perplexity of other text; `store` keeps what is finished, `run` drives them.
`figures` turns the rows into means with intervals, `choice` recommends and refines, `report`,
`tables` and `curve` show what came out.
"""
