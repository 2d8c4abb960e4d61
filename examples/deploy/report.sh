#!/bin/sh
# The job: whatever must not run twice at a time. The token lets the resource refuse a job that was paused.
echo "report with fencing token $TENURE_TOKEN"
