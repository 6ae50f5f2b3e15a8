# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile language: text in, typed instructions, stages and a plan out; no file is opened here.

`stages.parse_dockerfile` reads a Dockerfile, `plan.plan_stages` says which of its stages a target needs,
`ignore` matches the paths of a build context. `docs/dockerfile.md` says what of the language holds.
"""
