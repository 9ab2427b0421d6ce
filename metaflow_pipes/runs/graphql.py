"""The GraphQL queries and mutations that a Dagster webserver is asked."""

from __future__ import annotations

_RUN_FIELDS = """
    fragment RunFields on Run {
      runId
      pipelineName
      status
      creationTime
      startTime
      endTime
      tags { key value }
      stepKeysToExecute
    }
"""
JOBS = """
    query Jobs {
      repositoriesOrError {
        __typename
        ... on Error { message }
        ... on RepositoryConnection { nodes { name location { name } jobs { name } } }
      }
    }
"""
LAUNCH = (
    """
    mutation Launch($params: ExecutionParams!) {
      launchRun(executionParams: $params) {
        __typename
        ... on Error { message }
        ... on RunConfigValidationInvalid { errors { message } }
        ... on LaunchRunSuccess { run { ...RunFields } }
      }
    }
"""
    + _RUN_FIELDS
)
PARTITIONS = """
    query Partitions($selector: PipelineSelector!) {
      pipelineOrError(params: $selector) {
        __typename
        ... on Error { message }
        ... on Pipeline { partitionKeysOrError { partitionKeys } }
      }
    }
"""
PARTITION_TAGS = """
    query PartitionTags($selector: PipelineSelector!, $key: String!) {
      pipelineOrError(params: $selector) {
        __typename
        ... on Error { message }
        ... on Pipeline {
          partition(partitionName: $key) {
            tagsOrError {
              __typename
              ... on Error { message }
              ... on PartitionTags { results { key value } }
            }
          }
        }
      }
    }
"""
RUNS = (
    """
    query Runs($filter: RunsFilter, $cursor: String, $limit: Int) {
      runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {
        __typename
        ... on Error { message }
        ... on Runs { results { ...RunFields } }
      }
    }
"""
    + _RUN_FIELDS
)
EVENTS = """
    query Events($runId: ID!, $cursor: String, $limit: Int) {
      logsForRun(runId: $runId, afterCursor: $cursor, limit: $limit) {
        __typename
        ... on Error { message }
        ... on EventConnection {
          cursor
          hasMore
          events {
            ... on MessageEvent { eventType stepKey timestamp message }
            ... on ErrorEvent { error { message causes { message } } }
            ... on ExecutionStepFailureEvent { failureMetadata { description } }
            ... on ExecutionStepOutputEvent { metadataEntries { label ... on IntMetadataEntry { intValue } } }
          }
        }
      }
    }
"""
TERMINATE = """
    mutation Terminate($runId: String!) {
      terminateRun(runId: $runId, terminatePolicy: SAFE_TERMINATE) {
        __typename
        ... on Error { message }
        ... on TerminateRunFailure { message }
      }
    }
"""
_STATE = "id name status instigationType"
REPOSITORY_AUTOMATION = f"""
    query Automation($selector: RepositorySelector!) {{
      repositoryOrError(repositorySelector: $selector) {{
        __typename
        ... on Error {{ message }}
        ... on Repository {{
          schedules {{ name scheduleState {{ {_STATE} }} }}
          sensors {{ name sensorState {{ {_STATE} }} }}
        }}
      }}
    }}
"""
START_SCHEDULE = """
    mutation Start($selector: ScheduleSelector!) {
      startSchedule(scheduleSelector: $selector) { __typename ... on Error { message } }
    }
"""
STOP_SCHEDULE = """
    mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename ... on Error { message } } }
"""
START_SENSOR = """
    mutation Start($selector: SensorSelector!) {
      startSensor(sensorSelector: $selector) { __typename ... on Error { message } }
    }
"""
STOP_SENSOR = """
    mutation Stop($id: String!) { stopSensor(id: $id) { __typename ... on Error { message } } }
"""
